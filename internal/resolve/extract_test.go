package resolve

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// records parses resource records, one a line.
func records(t testing.TB, text string) []dns.RR {
	t.Helper()
	var list []dns.RR
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, rr)
	}
	return list
}

func TestExtract(t *testing.T) {
	const never = time.Duration(math.MaxInt64)
	for _, tt := range []struct {
		name, answer string
		qtype        uint16
		addrs        string
		unusable     string
		ttl          time.Duration
		hops         int
		end          string
	}{
		{"empty", "", dns.TypeA, "", "", never, 0, "db.x."},
		{"two addresses, the lesser TTL", "db.x. 60 A 10.0.0.2\ndb.x. 30 A 10.0.0.1", dns.TypeA, "10.0.0.2 10.0.0.1", "", 30 * time.Second, 0, "db.x."},
		{"upper case", "DB.X. 60 A 10.0.0.1", dns.TypeA, "10.0.0.1", "", time.Minute, 0, "db.x."},
		{"other names and types are not looked at", "x. 1 A 10.0.0.9\ndb.x. 1 AAAA fd00::1\nxdb.x. 1 A 10.0.0.8\ndb.x. 1 TXT a\ndb.x. 1 CH A 10.0.0.7\ndb.x. 60 A 10.0.0.1", dns.TypeA, "10.0.0.1", "", time.Minute, 0, "db.x."},
		{"aliases in any order, the least TTL", "c.x. 60 A 10.0.0.1\nb.x. 20 CNAME c.x.\ndb.x. 40 CNAME B.x.", dns.TypeA, "10.0.0.1", "", 20 * time.Second, 2, "c.x."},
		{"alias without an address", "db.x. 40 CNAME c.y.", dns.TypeA, "", "", 40 * time.Second, 1, "c.y."},
		{"loop", "db.x. 40 CNAME a.x.\na.x. 40 CNAME db.x.", dns.TypeA, "", "", 40 * time.Second, 9, "db.x."},
		{"alias to itself", "db.x. 40 CNAME db.x.", dns.TypeA, "", "", 40 * time.Second, 9, "db.x."},
		{"sinkhole", "db.x. 40 A 0.0.0.0", dns.TypeA, "", "0.0.0.0", never, 0, "db.x."},
		{"multicast beside a good one", "db.x. 40 AAAA ff02::1\ndb.x. 50 AAAA fd00::1", dns.TypeAAAA, "fd00::1", "ff02::1", 50 * time.Second, 0, "db.x."},
		{"IPv4 in IPv6 form", "db.x. 40 AAAA ::ffff:10.0.0.1\ndb.x. 40 AAAA ::ffff:0.0.0.0", dns.TypeAAAA, "10.0.0.1", "0.0.0.0", 40 * time.Second, 0, "db.x."},
		{"TTL 0", "db.x. 0 A 10.0.0.1", dns.TypeA, "10.0.0.1", "", 0, 0, "db.x."},
		{"TTL with the top bit set", "db.x. 4294967295 A 10.0.0.1", dns.TypeA, "10.0.0.1", "", 0, 0, "db.x."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := extract(&dns.Msg{Answer: records(t, tt.answer)}, "db.x.", tt.qtype, maxHops)
			unusable := ""
			if x.unusable.IsValid() {
				unusable = x.unusable.String()
			}
			if !slices.Equal(x.addrs, addrs(tt.addrs)) || unusable != tt.unusable || x.ttl != tt.ttl || x.hops != tt.hops || x.end != tt.end {
				t.Errorf("got %+v\nwant %+v", x, tt)
			}
		})
	}
}

func TestExtractRecordWithoutData(t *testing.T) {
	h := dns.RR_Header{Name: "db.x.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
	x := extract(&dns.Msg{Answer: []dns.RR{&dns.A{Hdr: h}}}, "db.x.", dns.TypeA, maxHops)
	if len(x.addrs) != 0 || x.unusable.IsValid() {
		t.Errorf("got %+v", x)
	}
}

func TestIsReferral(t *testing.T) {
	ns, soa := "x. 60 NS ns.x.", "x. 60 SOA ns.x. root.x. 1 2 3 4 5"
	for _, tt := range []struct {
		name string
		msg  dns.Msg
		want bool
	}{
		{"referral", dns.Msg{Ns: records(t, ns)}, true},
		{"empty answer of a resolver", dns.Msg{MsgHdr: dns.MsgHdr{RecursionAvailable: true}, Ns: records(t, ns)}, false},
		{"empty answer with SOA", dns.Msg{Ns: records(t, soa+"\n"+ns)}, false},
		{"empty answer", dns.Msg{}, false},
		{"answer", dns.Msg{Answer: records(t, "a.x. 1 A 10.0.0.1"), Ns: records(t, ns)}, false},
	} {
		if got := isReferral(&tt.msg); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// FuzzReply gives any bytes as a server's reply.
func FuzzReply(f *testing.F) {
	q := new(dns.Msg)
	q.SetQuestion("db.x.", dns.TypeA)
	q.Id = 1
	for _, answer := range []string{
		"", "db.x. 60 A 10.0.0.1\ndb.x. 0 A 0.0.0.0", "db.x. 60 CNAME a.y.\na.y. 5 A 10.0.0.1", "db.x. 1 CNAME db.x.",
		"db.x. 60 AAAA ::ffff:10.0.0.1", "db.x. 4294967295 A 10.0.0.1", "db.x. 60 DNAME y.",
	} {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Answer = records(f, answer)
		packet, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet)
		f.Add(packet[:len(packet)-1])
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		reply := new(dns.Msg)
		if reply.Unpack(packet) != nil {
			return
		}
		answers(reply, q)
		unfit(reply)
		hasSOA(reply)
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeCNAME} {
			x := extract(reply, "db.x.", qtype, maxHops)
			if slices.ContainsFunc(x.addrs, func(a netip.Addr) bool { return !usable(a) || a.Is4In6() }) {
				t.Errorf("addresses %v", x.addrs)
			}
			if x.ttl < 0 || x.hops > maxHops+1 || x.end == "" {
				t.Errorf("got %+v", x)
			}
		}
	})
}
