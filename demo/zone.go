package main

import (
	"net"
	"sync"

	"github.com/miekg/dns"
)

// zone is a DNS server on loopback with records that can change, TTL 1 s.
type zone struct {
	addr   string
	server *dns.Server

	mu    sync.Mutex
	names map[string]string
}

func serveZone() (*zone, error) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	z := &zone{addr: pc.LocalAddr().String(), names: map[string]string{}}
	z.server = &dns.Server{PacketConn: pc, Handler: z}
	go z.server.ActivateAndServe()
	return z, nil
}

func (z *zone) close() { _ = z.server.Shutdown() } // it ends with the process in any case

func (z *zone) set(name, addr string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.names[dns.Fqdn(name)] = addr
}

// ServeDNS implements dns.Handler.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	addr, known := z.names[q.Question[0].Name]
	z.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	switch {
	case !known:
		m.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		m.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
			A:   net.ParseIP(addr),
		}}
	}
	_ = w.WriteMsg(m) // the asker asks again
}
