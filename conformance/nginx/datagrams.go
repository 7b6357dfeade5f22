package main

import (
	"net"
	"net/netip"
	"time"
)

// datagrams answers for `return` on UDP. No datagram goes through midspan, whose
// relay has none; this is for the one question of a test of variables, which
// is otherwise about TCP.
func (e *ends) datagrams(c *conf) error {
	for _, b := range c.binds {
		if !b.udp {
			continue
		}
		u := b.def
		if _, answers := u.returns(); !answers {
			return u.server.errorf("midspan's relay forwards no datagrams")
		}
		l, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(b.addr))
		if err != nil {
			return err
		}
		e.closers = append(e.closers, l.Close)
		e.wg.Go(func() { e.front.answerUDP(u, l) })
	}
	return nil
}

func (f *front) answerUDP(u *unit, l *net.UDPConn) {
	buf := make([]byte, 1<<16)
	for {
		_, from, err := l.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		s := &session{unit: u, serial: f.serial.Add(1), now: time.Now(), client: netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), local: u.bind.addr}
		s.set()
		text, _ := u.returns()
		_, _ = l.WriteToUDPAddrPort([]byte(s.expand(text)), from) // a datagram may be lost
	}
}
