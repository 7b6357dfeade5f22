package main

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"time"

	"midspan/internal/engine"
)

// answerTime bounds how long an answer may take, and endTime how long the client
// may take to end after it.
const (
	answerTime = 30 * time.Second
	endTime    = time.Second
)

// answer is nginx's `return`: u's text, and the end. Who the client is comes
// from the header that midspan puts before each connection.
func (f *front) answer(u *unit, c *net.TCPConn) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(answerTime))
	r := bufio.NewReader(c)
	h, err := readHeader(r)
	if err != nil {
		f.log.printf(levelCrit, "midspan's PROXY header: %v", err)
		return
	}
	s := f.session(u, h)
	if u.on("ssl_preread") && len(u.bind.units) == 1 {
		s.hello = readHello(r)
	}
	s.set()
	text, _ := s.unit.returns()
	if _, err := io.WriteString(c, s.expand(text)); err != nil {
		return
	}
	_ = c.CloseWrite()
	// nginx closes here. A close with bytes unread would be a reset, which may
	// overtake the answer; the client's end is waited for.
	_ = c.SetReadDeadline(time.Now().Add(endTime))
	_, _ = io.Copy(io.Discard, r)
}

// session is the connection with header h to a server of the front's.
func (f *front) session(u *unit, h *header) *session {
	s := &session{unit: u, serial: f.serial.Add(1), now: time.Now(), client: h.source, local: u.bind.addr}
	if conn := f.live(u.route, h); conn != nil {
		s.conn = conn
		if conn.Peer.IsValid() && u.bind.proxy { // else it is a route of ours before this one
			s.client = conn.Peer
		}
		if !s.local.IsValid() || s.local.Addr().IsUnspecified() {
			s.local = conn.Listener
		}
	}
	if u.bind.proxy {
		s.header = h
		h.peer = s.client
		if h.source == s.client { // the client's header had no addresses
			h.source, h.dest = netip.AddrPort{}, netip.AddrPort{}
		}
	}
	s.onUnix()
	if len(u.bind.units) > 1 {
		s.unit, s.groups = u.bind.byName(s.serverName())
	}
	return s
}

// onUnix takes the bridge's address for what it stands for.
func (s *session) onUnix() {
	if s.client.Addr() == unixPeer {
		s.client = netip.AddrPort{}
	}
	if !s.unit.bind.addr.IsValid() {
		s.local = netip.AddrPort{}
	}
}

// live is the connection of h among midspan's; nil: it has ended already.
func (f *front) live(route string, h *header) *engine.Conn {
	for _, c := range f.daemon.Conns() {
		if c.Route == route && c.Client == h.source {
			return &c
		}
	}
	return nil
}

// readHello is the ClientHello that a client begins with, or what there is of it
// when it is plain that none will come.
func readHello(r *bufio.Reader) []byte {
	for {
		if b, _ := r.Peek(r.Buffered()); complete(b) {
			return b
		}
		if _, err := r.Peek(r.Buffered() + 1); err != nil {
			b, _ := r.Peek(r.Buffered())
			return b
		}
	}
}
