package resolve

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// dnsServer is a real DNS server on loopback, over UDP and TCP, that answers by
// a script.
type dnsServer struct {
	addr netip.AddrPort

	mu     sync.Mutex
	answer answerFunc
	asked  []string // "udp db.x. A", in order
	udp    *dns.Server
	tcp    *dns.Server
}

// ask is one question to a dnsServer.
type ask struct {
	w       dns.ResponseWriter
	network string // "udp" or "tcp"
	q       *dns.Msg
	reply   *dns.Msg // set up as the reply to q
}

// answerFunc fills the reply. It is false if nothing is to be sent, be it that
// the function has written itself.
type answerFunc func(a ask) bool

// serve starts a server. It runs until the test ends.
func serve(t testing.TB, answer answerFunc) *dnsServer {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", answer)
}

// serveAt is serve for a server that the test stops itself: on an address of its
// own, no other socket of the tests gets the port that it gives up.
func serveAt(t testing.TB, addr string, answer answerFunc) *dnsServer {
	t.Helper()
	s := &dnsServer{answer: answer}
	s.listen(t, netip.MustParseAddrPort(addr))
	t.Cleanup(s.stop)
	return s
}

// listen opens the same port for UDP and TCP.
func (s *dnsServer) listen(t testing.TB, addr netip.AddrPort) {
	t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	var err error
	for range 100 { // the port chosen for TCP may be taken for UDP
		tcp, err = net.Listen("tcp", addr.String())
		if err != nil {
			continue
		}
		udp, err = net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			break
		}
		tcp.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.addr = udp.LocalAddr().(*net.UDPAddr).AddrPort()
	s.udp = &dns.Server{PacketConn: udp, Handler: s.handler("udp")}
	s.tcp = &dns.Server{Listener: tcp, Handler: s.handler("tcp")}
	for _, srv := range []*dns.Server{s.udp, s.tcp} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go srv.ActivateAndServe()
		<-started
	}
}

// stop makes the server go away; its port then refuses.
func (s *dnsServer) stop() {
	s.udp.Shutdown()
	s.tcp.Shutdown()
}

func (s *dnsServer) handler(network string) dns.Handler {
	return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		s.mu.Lock()
		s.asked = append(s.asked, fmt.Sprintf("%s %s %s", network, q.Question[0].Name, dns.TypeToString[q.Question[0].Qtype]))
		answer := s.answer
		s.mu.Unlock()
		reply := new(dns.Msg)
		reply.SetReply(q)
		reply.RecursionAvailable = true
		if answer(ask{w, network, q, reply}) {
			w.WriteMsg(reply)
		}
	})
}

func (s *dnsServer) set(answer answerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *dnsServer) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *dnsServer) has(asked string) bool { return slices.Contains(s.questions(), asked) }

// zone answers with the records given, one a line: those of the name and type
// asked for, and its CNAME. A name without records does not exist.
func zone(t testing.TB, text string) answerFunc {
	t.Helper()
	all := records(t, text)
	return func(a ask) bool {
		q := a.q.Question[0]
		a.reply.Rcode = dns.RcodeNameError
		for _, rr := range all {
			if h := rr.Header(); h.Name == q.Name {
				a.reply.Rcode = dns.RcodeSuccess
				if h.Rrtype == q.Qtype || h.Rrtype == dns.TypeCNAME {
					a.reply.Answer = append(a.reply.Answer, dns.Copy(rr)) // packing writes to it
				}
			}
		}
		return true
	}
}

// rcode answers with an error code.
func rcode(code int) answerFunc {
	return func(a ask) bool {
		a.reply.Rcode = code
		return true
	}
}

// mute never answers.
func mute(ask) bool { return false }

// byType answers A questions with one function and AAAA questions with another.
func byType(v4, v6 answerFunc) answerFunc {
	return func(a ask) bool {
		if a.q.Question[0].Qtype == dns.TypeA {
			return v4(a)
		}
		return v6(a)
	}
}
