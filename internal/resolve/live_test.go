package resolve

import (
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// watchOne returns a resolver that has tried db.x once. Its TTLs are short.
func watchOne(t *testing.T, o Options) *Resolver {
	t.Helper()
	o.MinTTL, o.MaxTTL = 20*time.Millisecond, 50*time.Millisecond
	if o.Hosts == "" {
		o.Hosts = "/dev/null"
	}
	r := New(o)
	t.Cleanup(r.Close)
	r.Watch([]string{"db.x"})
	if err := r.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// eventually waits until db.x has the addresses and an error with the word given,
// or none if it is empty.
func eventually(t *testing.T, r *Resolver, want, word string) {
	t.Helper()
	var a Answer
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		a = r.Answers()["db.x"]
		if slices.Equal(a.Addrs, addrs(want)) && (a.Err == nil) == (word == "") && strings.Contains(text(a.Err), word) {
			return
		}
	}
	t.Fatalf("got %v, %v; want %s, %q", a.Addrs, a.Err, want, word)
}

func TestLiveChanges(t *testing.T) {
	t.Parallel()
	s := serve(t, zone(t, dbZone))
	changed := make(chan struct{}, 100)
	r := watchOne(t, Options{Servers: []netip.AddrPort{s.addr}, Timeout: short, OnChange: func() { changed <- struct{}{} }})
	eventually(t, r, "10.0.0.1 10.0.0.2 fd00::1", "")
	<-changed
	s.set(zone(t, "db.x. 3600 A 10.0.0.3"))
	eventually(t, r, "10.0.0.3", "")
	<-changed
	s.set(zone(t, "db.x. 0 A 10.0.0.4\ndb.x. 0 AAAA fd00::4"))
	eventually(t, r, "10.0.0.4 fd00::4", "")
	s.set(byType(zone(t, "db.x. 60 A 10.0.0.5"), rcode(dns.RcodeServerFailure)))
	eventually(t, r, "10.0.0.5 fd00::4", "db.x: AAAA: SERVFAIL from")
}

func TestLiveBadAnswersKeepAddresses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		answer answerFunc
		word   string
	}{
		{"NXDOMAIN", rcode(dns.RcodeNameError), "NXDOMAIN"},
		{"empty", rcode(dns.RcodeSuccess), "empty answer"},
		{"unusable", byType(zone(t, "db.x. 9 A 0.0.0.0"), zone(t, "db.x. 9 AAAA ::")), "unusable"},
		{"silence", mute, "timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, zone(t, dbZone))
			r := watchOne(t, Options{Servers: []netip.AddrPort{s.addr}, Timeout: short})
			s.set(tt.answer)
			eventually(t, r, "10.0.0.1 10.0.0.2 fd00::1", tt.word)
			s.set(zone(t, "db.x. 60 A 10.0.0.9"))
			eventually(t, r, "10.0.0.9", "")
		})
	}
}

func TestLiveStartWithDNSDown(t *testing.T) {
	t.Parallel()
	s := serveAt(t, "127.0.0.2:0", zone(t, dbZone))
	s.stop()
	r := watchOne(t, Options{Servers: []netip.AddrPort{s.addr}, Timeout: short})
	eventually(t, r, "", "connection refused")
	s.listen(t, s.addr)
	eventually(t, r, "10.0.0.1 10.0.0.2 fd00::1", "")
}

func TestLiveHostsFileWins(t *testing.T) {
	t.Parallel()
	s := serve(t, zone(t, dbZone))
	hosts := filepath.Join(t.TempDir(), "hosts")
	write(t, hosts, "10.1.0.1 DB.x\n")
	r := watchOne(t, Options{Servers: []netip.AddrPort{s.addr}, Hosts: hosts})
	eventually(t, r, "10.1.0.1", "")
	write(t, hosts, "10.1.0.2 db.x db\n")
	eventually(t, r, "10.1.0.2", "")
	write(t, hosts, "")
	eventually(t, r, "10.0.0.1 10.0.0.2 fd00::1", "")
}

// Guards: a Close that waits for the timeouts of servers, and sockets or
// goroutines that stay behind. Not parallel, as it counts goroutines.
func TestLiveCloseWhileLookupsHang(t *testing.T) {
	s := serve(t, func(a ask) bool {
		a.reply.Truncated = true
		return a.network == "udp" && a.reply.Question[0].Qtype == dns.TypeA // one hangs over TCP, one over UDP
	})
	before := runtime.NumGoroutine()
	r := New(Options{Servers: []netip.AddrPort{s.addr}, Hosts: "/dev/null", Timeout: time.Minute, OnChange: func() {}})
	r.Watch([]string{"db.x", "a.x", "b.x"})
	for !s.has("tcp db.x. A") || !s.has("udp db.x. AAAA") {
		time.Sleep(time.Millisecond)
	}
	begin := time.Now()
	r.Close()
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("Close took %v", d)
	}
	// The server's own goroutines for the TCP connections need a moment to end.
	for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
