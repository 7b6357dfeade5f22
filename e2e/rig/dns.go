package rig

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// DNS is a name server with A and AAAA records.
type DNS struct {
	Addr string

	mu      sync.Mutex
	ttl     uint32
	records map[string][]netip.Addr
	failing bool
	asked   map[string]int
}

// StartDNS starts one at addr, whose answers live for ttl seconds.
func StartDNS(t testing.TB, addr string, ttl uint32) *DNS {
	t.Helper()
	return StartDNSIn(t, nil, addr, ttl)
}

// StartDNSIn starts one at addr of a namespace.
func StartDNSIn(t testing.TB, in *Net, addr string, ttl uint32) *DNS {
	t.Helper()
	d := &DNS{Addr: addr, ttl: ttl, records: map[string][]netip.Addr{}, asked: map[string]int{}}
	var pc net.PacketConn
	err := in.Do(func() (err error) {
		pc, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(d.answer), NotifyStartedFunc: func() { close(started) }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ActivateAndServe() // it ends by Shutdown
	}()
	<-started
	t.Cleanup(func() {
		_ = srv.Shutdown()
		<-done
	})
	return d
}

// Set gives name these addresses and no others; none means that it does not
// exist.
func (d *DNS) Set(name string, addrs ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	d.records[dns.Fqdn(name)] = list
}

// Fail makes every answer SERVFAIL, or ends that.
func (d *DNS) Fail(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing = on
}

// Asked is how often name was asked for, over all types.
func (d *DNS) Asked(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[dns.Fqdn(name)]
}

// Names are all that were asked for.
func (d *DNS) Names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.asked))
}

func (d *DNS) answer(w dns.ResponseWriter, q *dns.Msg) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := new(dns.Msg).SetReply(q)
	question := q.Question[0]
	d.asked[question.Name]++
	addrs := d.records[question.Name]
	switch {
	case d.failing:
		m.Rcode = dns.RcodeServerFailure
	case len(addrs) == 0:
		m.Rcode = dns.RcodeNameError
	}
	if m.Rcode == dns.RcodeSuccess {
		for _, a := range addrs {
			h := dns.RR_Header{Name: question.Name, Class: dns.ClassINET, Ttl: d.ttl}
			switch {
			case a.Is4() && question.Qtype == dns.TypeA:
				h.Rrtype = dns.TypeA
				m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
			case a.Is6() && question.Qtype == dns.TypeAAAA:
				h.Rrtype = dns.TypeAAAA
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
			}
		}
	}
	_ = w.WriteMsg(m) // the one who asked may be gone
}
