package resolve

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const (
	short = 2 * time.Second  // for one try, in tests of silence
	long  = 20 * time.Second // in all others: a server that answers may be late
)

// newWire returns a wire that asks the servers given.
func newWire(timeout time.Duration, servers ...*dnsServer) *wire {
	var list []netip.AddrPort
	for _, s := range servers {
		list = append(list, s.addr)
	}
	src := newSources("/dev/null", "/dev/null", list)
	return &wire{src: src, timeout: timeout, maxTTL: 5 * time.Minute}
}

// expect looks name up and compares the addresses and the error, in which
// server addresses are S1, S2.
func expect(t *testing.T, w *wire, name, want, wantErr string) result {
	t.Helper()
	res := w.lookup(t.Context(), name, "")
	s := state{name: name}.after(res, time.Now(), limits{0, time.Hour}, 0)
	msg := text(s.answer.Err)
	_, conf, _ := w.src.current()
	for i, server := range conf.servers {
		msg = strings.ReplaceAll(msg, server.String(), fmt.Sprintf("S%d", i+1))
	}
	if !slices.Equal(s.answer.Addrs, addrs(want)) || msg != wantErr {
		t.Errorf("%s: got %v, %q\nwant %s, %q", name, s.answer.Addrs, msg, want, wantErr)
	}
	return res
}

const dbZone = "db.x. 60 A 10.0.0.1\ndb.x. 60 A 10.0.0.2\ndb.x. 30 AAAA fd00::1"

func TestWireUnionOfFamilies(t *testing.T) {
	t.Parallel()
	s := serve(t, zone(t, dbZone))
	res := expect(t, newWire(long, s), "db.x", "10.0.0.1 10.0.0.2 fd00::1", "")
	if res.fam[0].ttl != time.Minute || res.fam[1].ttl != 30*time.Second {
		t.Errorf("TTLs %v and %v", res.fam[0].ttl, res.fam[1].ttl)
	}
	if len(s.questions()) != 2 || !s.has("udp db.x. A") || !s.has("udp db.x. AAAA") {
		t.Errorf("asked %v", s.questions())
	}
}

func TestWireErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		answer answerFunc
		err    string
	}{
		{"NXDOMAIN", zone(t, dbZone), "a.x: no such name (NXDOMAIN from S1)"},
		{"empty", rcode(dns.RcodeSuccess), "a.x: no address (empty answer from S1)"},
		{"SERVFAIL", rcode(dns.RcodeServerFailure), "a.x: SERVFAIL from S1"},
		{"REFUSED", rcode(dns.RcodeRefused), "a.x: REFUSED from S1"},
		{"silence", mute, "a.x: no answer from S1 (timeout)"},
		{"NXDOMAIN of an alias", func(a ask) bool {
			a.reply.Rcode = dns.RcodeNameError
			a.reply.Answer = records(t, "a.x. 1 CNAME b.y.")
			return true
		}, "a.x: no such name (NXDOMAIN from S1 for its alias b.y.)"},
		{"sinkhole", byType(zone(t, "a.x. 1 A 0.0.0.0"), rcode(dns.RcodeSuccess)), "a.x: only unusable addresses (0.0.0.0 from S1)"},
		{"loop of aliases", zone(t, "a.x. 1 CNAME b.x.\nb.x. 1 CNAME a.x."), "a.x: more than 8 aliases in a row, perhaps a loop (from S1)"},
		{"referral", func(a ask) bool {
			a.reply.RecursionAvailable = false
			a.reply.Ns = records(t, "x. 1 NS ns.x.")
			return true
		}, "a.x: referral instead of an answer from S1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			timeout := long
			if strings.Contains(tt.err, "(timeout)") {
				timeout = short
			}
			expect(t, newWire(timeout, serve(t, tt.answer)), "a.x", "", tt.err)
		})
	}
}

func TestWireInvalidName(t *testing.T) {
	t.Parallel()
	expect(t, newWire(short), "a..b", "", "a..b: not a valid DNS name")
}

func TestWireNextServer(t *testing.T) {
	t.Parallel()
	gone := serveAt(t, "127.0.0.3:0", mute)
	gone.stop()
	for _, tt := range []struct {
		name  string
		first *dnsServer
	}{
		{"SERVFAIL", serve(t, rcode(dns.RcodeServerFailure))},
		{"REFUSED", serve(t, rcode(dns.RcodeRefused))},
		{"never answers", serve(t, mute)},
		{"port closed", gone},
		{"garbled", serve(t, func(a ask) bool {
			packet, _ := a.reply.Pack()
			packet[7] = 200 // says that there are 200 answers
			a.w.Write(append(packet, 0xc0, 0xff, 1, 2, 3))
			return false
		})},
		{"too short", serve(t, func(a ask) bool {
			a.w.Write([]byte{1, 2, 3})
			return false
		})},
		{"wrong id", serve(t, func(a ask) bool {
			a.reply.Id++
			return true
		})},
		{"another question", serve(t, func(a ask) bool {
			a.reply.Question[0].Name = "evil.x."
			return true
		})},
		{"the question itself", serve(t, func(a ask) bool {
			a.reply.Response = false
			return true
		})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			good := serve(t, zone(t, dbZone))
			expect(t, newWire(short, tt.first, good), "db.x", "10.0.0.1 10.0.0.2 fd00::1", "")
		})
	}
	t.Run("none works", func(t *testing.T) {
		t.Parallel()
		expect(t, newWire(short, serve(t, mute), serve(t, mute)), "db.x", "", "db.x: no answer from S1, S2 (timeout)")
		expect(t, newWire(short, serve(t, rcode(dns.RcodeServerFailure)), gone), "db.x", "",
			"db.x: SERVFAIL from S1; no answer from S2 (connection refused)")
	})
}

// A forger's or late packet before the reply must not end the try.
func TestWireSkipsForeignPackets(t *testing.T) {
	t.Parallel()
	s := serve(t, byType(func(a ask) bool {
		a.w.Write([]byte("x"))
		forged := a.reply.Copy()
		forged.Id++
		forged.Answer = records(t, "db.x. 60 A 10.6.6.6")
		a.w.WriteMsg(forged)
		packet, _ := forged.Pack()
		a.w.Write(packet[:len(packet)-1])
		a.reply.Answer = records(t, "db.x. 60 A 10.0.0.1")
		return true
	}, zone(t, "")))
	expect(t, newWire(long, s), "db.x", "10.0.0.1", "")
}

func TestWireTruncatedGoesToTCP(t *testing.T) {
	t.Parallel()
	full := zone(t, dbZone)
	truncate := func(a ask) bool {
		if a.network == "udp" {
			a.reply.Truncated = true
			packet, _ := a.reply.Pack()
			packet[7] = 1
			a.w.Write(append(packet, 0xc0)) // cut in the middle of a record
			return false
		}
		return full(a)
	}
	s := serveAt(t, "127.0.0.4:0", truncate)
	expect(t, newWire(long, s), "db.x", "10.0.0.1 10.0.0.2 fd00::1", "")
	if !s.has("tcp db.x. A") || !s.has("tcp db.x. AAAA") {
		t.Errorf("asked %v", s.questions())
	}
	s.tcp.Shutdown()
	expect(t, newWire(long, s), "db.x", "", "db.x: no answer from S1 (truncated, and over TCP: connection refused)")
}

func TestWireLargeAnswerIsCut(t *testing.T) {
	t.Parallel()
	s := serve(t, func(a ask) bool {
		if a.network == "udp" {
			a.reply.Truncated = true
			return true
		}
		for i := 200; i > 0 && a.reply.Question[0].Qtype == dns.TypeA; i-- {
			a.reply.Answer = append(a.reply.Answer, records(t, fmt.Sprintf("db.x. 60 A 10.0.0.%d", i))...)
		}
		return true
	})
	res := newWire(long, s).lookup(t.Context(), "db.x", "")
	if f := res.fam[0]; !f.cut || len(f.addrs) != maxAddrs || f.addrs[0].String() != "10.0.0.1" {
		t.Errorf("got %+v", f)
	}
}

func TestWireOldServerWithoutEDNS(t *testing.T) {
	t.Parallel()
	good := zone(t, dbZone)
	s := serve(t, func(a ask) bool {
		if a.q.IsEdns0() != nil {
			a.reply.Rcode = dns.RcodeFormatError
			a.reply.Question = nil
			return true
		}
		return good(a)
	})
	expect(t, newWire(long, s), "db.x", "10.0.0.1 10.0.0.2 fd00::1", "")
}

func TestWireAliases(t *testing.T) {
	t.Parallel()
	// The server follows no alias itself: each target is asked for.
	s := serve(t, zone(t, "db.x. 60 CNAME a.x.\na.x. 20 CNAME b.y.\nb.y. 40 A 10.0.0.1"))
	res := expect(t, newWire(long, s), "db.x", "10.0.0.1", "")
	if res.fam[0].ttl != 20*time.Second {
		t.Errorf("TTL %v, want the least of the chain", res.fam[0].ttl)
	}
	// It has followed it, and says by its SOA that there is no AAAA record.
	s = serve(t, func(a ask) bool {
		a.reply.Answer = records(t, "db.x. 60 CNAME b.y.")
		if a.reply.Question[0].Qtype == dns.TypeA {
			a.reply.Answer = records(t, "db.x. 60 CNAME b.y.\nb.y. 50 A 10.0.0.1")
		} else {
			a.reply.Ns = records(t, "y. 60 SOA ns.y. root.y. 1 2 3 4 5")
		}
		return true
	})
	expect(t, newWire(long, s), "db.x", "10.0.0.1", "")
	if s.has("udp b.y. AAAA") {
		t.Errorf("the target was asked for though the answer was whole: %v", s.questions())
	}
}
