package kafka

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// forwarder is one of several with the same routes, on a machine of its own.
type forwarder struct {
	*member
	t    testing.TB
	net  *rig.Net
	file *rig.File
	m    *rig.Midspan
}

// newForwarder makes the nth, from 1, with its routes.
func (l *lab) newForwarder(t *testing.T, n int, routes string) *forwarder {
	t.Helper()
	hub, addr := fmt.Sprintf("10.81.%d.1", n), fmt.Sprintf("10.81.%d.2", n)
	f := &forwarder{member: &member{addr: addr, probe: addr + ":8080"}, t: t, net: rig.NewNet(t), file: rig.NewFile(t)}
	rig.Cable(t, rig.End{Name: fmt.Sprint("vm", n), Addrs: []string{hub + "/24"}}, rig.End{Net: f.net, Name: "eth0", Addrs: []string{addr + "/24"}})
	l.k.LAN.Plug(rig.End{Net: f.net, Name: "srv0", Addrs: []string{fmt.Sprintf("10.79.0.%d/24", n)}})
	f.file.Health, f.file.Admin = f.probe, addr+":9600"
	f.file.Write("drain: { detection: 1s, timeout: 3s }\n%s", routes)
	f.start()
	return f
}

func (f *forwarder) start() {
	f.t.Helper()
	f.m = rig.Launch(f.t, f.file, rig.Spec{Program: rig.Bin(f.t), Args: []string{"run", f.file.Path}, In: f.net})
}

// awaitUp waits until the load balancer gives it connections.
func (f *forwarder) awaitUp() {
	f.t.Helper()
	rig.Until(f.t, time.Minute, "the load balancer takes the forwarder for well", f.up.Load)
}

// stream is a client that writes and reads until it is told to end.
type stream struct {
	name string
	*run
}

// streams starts every client with a group of consumers, and those that can with a
// share group too.
func (l *lab) streams(t *testing.T, all []program, hosts string, args ...string) []*stream {
	t.Helper()
	var list []*stream
	begin := func(name string, start func([]string) rig.Spec, group string) {
		l.topics(t, name, "")
		list = append(list, &stream{name, l.start(t, program{start: start}, hosts, slices.Concat(args, []string{"jobs=stream", "topic=" + name, "group=" + group})...)})
	}
	for _, p := range all {
		group := "classic"
		if p.kip848 {
			group = "consumer"
		}
		begin("stream-"+p.name, p.start, group)
		if p.share != nil {
			l.k.ShareFromStart("stream-share-" + p.name)
			begin("share-"+p.name, p.share, "share")
		}
	}
	return list
}

// progress is how many records are acknowledged, and read, by what the client has
// said last.
func (s *stream) progress() (written, read int) {
	said := s.Stdout()
	said = said[:strings.LastIndexByte(said, '\n')+1] // whole lines
	if i := strings.LastIndex(said, "progress "); i >= 0 {
		if _, err := fmt.Sscanf(said[i:], "progress %d %d\n", &written, &read); err != nil {
			s.t.Fatalf("%s: %v", s.name, err)
		}
	}
	return written, read
}

// advance waits until every client has written and read a good deal more.
func advance(t *testing.T, all []*stream, after string) {
	t.Helper()
	const more = 300
	begin := time.Now()
	for _, s := range all {
		written, read := s.progress()
		rig.Until(t, 2*time.Minute, s.name+" goes on after "+after, func() bool {
			if !s.Alive() {
				t.Fatalf("%s has ended after %s:\n%s", s.name, after, s.Stderr())
			}
			w, r := s.progress()
			return w >= written+more && r >= read+more
		})
	}
	t.Logf("all go on %s after %s", time.Since(begin).Round(100*time.Millisecond), after)
}

// finish ends the clients and wants of each topic what was acknowledged and no
// more.
func (l *lab) finish(t *testing.T, all []*stream) {
	t.Helper()
	for _, s := range all {
		s.stdin.Close()
	}
	for _, s := range all {
		said := s.wait()
		_, total, _ := strings.Cut(said, "\nstreamed ")
		n, err := strconv.Atoi(strings.SplitN(total, ",", 2)[0])
		if err != nil {
			t.Fatalf("%s: %v in %q", s.name, err, total)
		}
		t.Logf("%s: %s", s.name, strings.TrimSpace("streamed "+total))
		if got := l.k.Records(s.name); got != n {
			t.Errorf("%s: the topic has %d records, and %d were acknowledged and read", s.name, got, n)
		}
	}
}

// disturb does all to a cluster and its two forwarders that operators and bad luck
// do, while clients go on.
func (l *lab) disturb(t *testing.T, all []*stream, one, two *forwarder) {
	t.Helper()
	advance(t, all, "the start")
	l.k.Roll()
	advance(t, all, "a rolling restart of the brokers")

	one.m.Kill()
	advance(t, all, "kill -9 of a forwarder")
	one.start()
	one.awaitUp()
	advance(t, all, "its restart")

	two.m.Signal(syscall.SIGTERM)
	if code := two.m.Exit(rig.Patience); code != 0 {
		t.Errorf("a drained forwarder ends with code %d", code)
	}
	advance(t, all, "a drain of the other")
	two.start()
	two.awaitUp()

	l.k.Add(4)
	for _, s := range all {
		l.k.Move(s.name, []int{4, 1, 2}, 0, 1)
	}
	advance(t, all, "a broker was added")
	for _, s := range all {
		l.k.AwaitLeads(s.name, 4, 2) // it was not left alone, but for a moment
	}
}
