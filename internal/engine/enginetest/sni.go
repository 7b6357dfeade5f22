package enginetest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"midspan/internal/engine"
)

func sniCases() []testCase {
	return []testCase{
		{"server names", testNames},
		{"server names without a default", testNamesAlert},
		{"server name missing", testNoName},
		{"server name where there is no TLS", testNotTLS},
		{"server name in a hello cut anywhere", testHelloCuts},
		{"server name in a hello that is slow", testHelloSlow},
		{"server name in a hello that is wrong", testHelloWrong},
		{"server name behind a PROXY header", testNameBehindHeader},
		{"server name, then much data", testNameBulk},
	}
}

// helloFor is a ClientHello as a client of Go's sends it.
func helloFor(name string) []byte {
	var sent bytes.Buffer
	c := tls.Client(recorder{&sent}, &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	_ = c.Handshake() // it ends with what it reads: nothing
	return sent.Bytes()
}

// recorder takes what is written and has nothing to read.
type recorder struct{ *bytes.Buffer }

func (recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (recorder) Close() error                     { return nil }
func (recorder) LocalAddr() net.Addr              { return nil }
func (recorder) RemoteAddr() net.Addr             { return nil }
func (recorder) SetDeadline(time.Time) error      { return nil }
func (recorder) SetReadDeadline(time.Time) error  { return nil }
func (recorder) SetWriteDeadline(time.Time) error { return nil }

// inRecords cuts the one record of a hello into records of n bytes.
func inRecords(hello []byte, n int) (out []byte) {
	for body := hello[5:]; len(body) > 0; body = body[min(n, len(body)):] {
		piece := body[:min(n, len(body))]
		out = append(append(out, 22, 3, 1, byte(len(piece)>>8), byte(len(piece))), piece...)
	}
	return out
}

// namesRoute has server a for a.example, b below *.b.example, c for deep ones
// below *.c.b.example, and d for the rest if there is a default.
func (r *rig) namesRoute(settings, last string) netip.AddrPort {
	r.Helper()
	var addrs []any
	for _, s := range "abcd" {
		name := string(s)
		addrs = append(addrs, r.serve(func(p *peer) {
			_, _ = io.WriteString(p, name)
			echo(p)
		}).addr)
	}
	at := r.freePort()
	to := fmt.Sprintf("a.example: %q, \"*.b.example\": %q, \"*.c.b.example\": %q", addrs[:3]...)
	if last != "" {
		to += fmt.Sprintf(", %s: %q", last, addrs[3])
	}
	r.apply("route: { mode: sni, listen: %q, to: { %s } %s }", at, to, settings)
	return at
}

func testNames(r *rig) {
	at := r.namesRoute("", "default")
	for name, want := range map[string]string{
		"a.example": "a", "A.Example": "a", "x.b.example": "b", "x.y.b.example": "b", "x.c.b.example": "c", "c.b.example": "b",
		"b.example": "d", "other": "d", "x.a.example": "d",
	} {
		hello := string(helloFor(name))
		c := r.hasName(at, hello, want)
		if err := c.hear(hello); err != nil {
			r.Errorf("%s: the hello does not come back: %v", name, err)
		}
		all := r.engine.Conns()
		if len(all) != 1 || all[0].ServerName != strings.ToLower(name) || all[0].BytesUp != uint64(len(hello)) {
			r.Errorf("listed is %+v, want name %s and %d bytes up", all, name, len(hello))
		}
		if err := c.bye(); err != nil {
			r.Error(err)
		}
		r.until("its end", func() bool { return len(r.engine.Conns()) == 0 })
	}
}

// testNamesAlert: a client that wants a name that is not there is told so as TLS
// tells it.
func testNamesAlert(r *rig) {
	at := r.namesRoute("", "")
	for _, more := range []string{"", "and something else"} {
		c := r.dial(at)
		if err := c.say(string(helloFor("nobody.example")) + more); err != nil {
			r.Fatal(err)
		}
		if err := c.hear("\x15\x03\x03\x00\x02\x02\x70"); err != nil {
			r.Error(err)
		}
		if err := c.all().want(0, "end"); err != nil {
			r.Error(err)
		}
		c.Close()
		if end := r.endsFor(c.local, engine.UnknownServerName); end.ServerName != "nobody.example" {
			r.Errorf("the record is %+v", end)
		}
	}
	// One that stays is not kept.
	c := r.dial(at)
	if err := c.say(string(helloFor("nobody.example"))); err != nil {
		r.Fatal(err)
	}
	r.endsFor(c.local, engine.UnknownServerName)
	_, err := tls.Client(r.dial(at), &tls.Config{ServerName: "nobody.example"}).Write(nil)
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		r.Errorf("a client of Go's is told %v", err)
	}
}

func testNoName(r *rig) {
	hello := string(helloFor(""))
	at := r.namesRoute("", "default")
	r.hasName(at, hello, "d")
	r.wantReset(r.namesRoute("", ""), hello, engine.NoServerName)
	r.wantReset(r.namesRoute(", sni: { no_name: reset }", "default"), hello, engine.NoServerName)
	c := r.dial(r.namesRoute(", sni: { no_name: alert }", "default"))
	if err := c.say(hello); err != nil {
		r.Fatal(err)
	}
	if err := c.hear("\x15\x03\x03\x00\x02\x02\x70"); err != nil {
		r.Error(err)
	}
	r.endsFor(c.local, engine.NoServerName)
}

func testNotTLS(r *rig) {
	at := r.namesRoute("", "default")
	for _, s := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00", "\x16\x02", "\x80\x2e\x01"} {
		r.wantReset(at, s, engine.NotTLS)
	}
	r.wantReset(at, v1(far, front), engine.ProxyNotAllowed)
	at = r.namesRoute(", sni: { not_tls: default }", "default")
	c := r.hasName(at, "hello", "d")
	if err := c.hear("hello"); err != nil {
		r.Error(err)
	}
	r.wantReset(at, v1(far, front), engine.ProxyNotAllowed)
}

func testHelloCuts(r *rig) {
	at := r.namesRoute("", "default")
	whole := helloFor("x.b.example")
	for _, hello := range []string{string(whole), string(inRecords(whole, 1)), string(inRecords(whole, 100))} {
		step := max(1, len(hello)/amount(200, 20))
		err := parallel(len(hello)/step, func(i int) error {
			c, err := r.connect(at)
			if err != nil {
				return err
			}
			if err := c.say(hello[:i*step]); err != nil {
				return err
			}
			pause()
			if err := c.say(hello[i*step:]); err != nil {
				return err
			}
			if err := c.hear("b" + hello); err != nil {
				return fmt.Errorf("cut after %d bytes: %w", i*step, err)
			}
			return c.bye()
		})
		if err != nil {
			r.Error(err)
		}
	}
	c := r.dial(at)
	for i := range whole {
		if err := c.say(string(whole[i : i+1])); err != nil {
			r.Fatal(err)
		}
	}
	if err := c.hear("b" + string(whole)); err != nil {
		r.Errorf("byte by byte: %v", err)
	}
}

func testHelloSlow(r *rig) {
	at := r.namesRoute(", sni: { timeout: 300ms }", "default")
	hello := string(helloFor("a.example"))
	for _, s := range []string{"", hello[:1], hello[:60], string(inRecords([]byte(hello), 10)[:200])} {
		r.inTime(fmt.Sprintf("a hello of which %d bytes came was given up", len(s)), 250*time.Millisecond, 2*time.Second, func() time.Duration {
			began := time.Now()
			r.wantReset(at, s, engine.OpeningTimeout)
			return time.Since(began)
		})
	}
	// A client that says nothing and goes is a probe.
	c := r.dial(r.namesRoute("", "default"))
	c.Close()
	r.until("a probe is counted", func() bool { return r.engine.Status().Routes[0].Counters.Ended[engine.Probe] == 1 })
}

func testHelloWrong(r *rig) {
	at := r.namesRoute(", sni: { not_tls: default }", "default")
	hello := string(helloFor("a.example"))
	for _, s := range []string{
		"\x16\x03\x01\x00\x00", "\x16\x03\x01\xff\xff", "\x16\x03\x01\x00\x05\x02", strings.Replace(hello, "a.example", "a\x00example", 1),
		"\x16\x03\x01\x00\x04\x01\x7f\xff\xff", string(inRecords([]byte(hello), 50)[:55]) + "\x17\x03\x03",
	} {
		r.wantReset(at, s, engine.TLSFailed)
	}
	// A hello without an end, in records without an end.
	endless := "\x16\x03\x01\x00\x05\x01\x00\xff\xffx" + strings.Repeat("\x16\x03\x01\x00\x01x", 20_000)
	c := r.dial(at)
	if err := c.say(endless); err == nil { // else the write has met the reset
		if got := c.all().String(); got != "0 bytes, reset" {
			r.Errorf("with an endless hello the client sees: %s; want a reset", got)
		}
	} else if fate(err) != "reset" {
		r.Error(err)
	}
	r.endsFor(c.local, engine.TLSFailed)
	c = r.dial(at)
	if err := c.say(hello[:100]); err != nil {
		r.Fatal(err)
	}
	c.CloseWrite()
	if got := c.all().String(); got != "0 bytes, reset" {
		r.Errorf("with half a hello and an end the client sees: %s; want a reset", got)
	}
	r.endsFor(c.local, engine.TLSFailed)
}

func testNameBehindHeader(r *rig) {
	at := r.namesRoute(", proxy_protocol: required, send_proxy: v2", "default")
	header, hello := v2(far, front, linkID(3)), string(helloFor("a.example"))
	for _, cut := range []int{0, 5, len(header) - 1, len(header), len(header) + 3, len(header) + len(hello)} {
		c := r.dial(at)
		stream := header + hello
		if err := c.say(stream[:cut]); err != nil {
			r.Fatal(err)
		}
		pause()
		if err := c.say(stream[cut:]); err != nil {
			r.Fatal(err)
		}
		if err := c.hear("a" + header + hello); err != nil {
			r.Errorf("cut after %d bytes: %v", cut, err)
		}
		if all := r.engine.Conns(); len(all) != 1 || all[0].Client != far || all[0].ServerName != "a.example" || all[0].Link != "azure:3" {
			r.Errorf("listed is %+v", all)
		}
		if err := c.bye(); err != nil {
			r.Error(err)
		}
		r.until("its end", func() bool { return len(r.engine.Conns()) == 0 })
	}
	c := r.dial(at)
	if err := c.say(header); err != nil {
		r.Fatal(err)
	}
	pause()
	c.Close()
	r.until("a probe is counted", func() bool { return r.engine.Status().Routes[0].Counters.Ended[engine.Probe] == 1 })
}

func testNameBulk(r *rig) {
	backend := r.serve(nil)
	at := r.freePort()
	r.apply("route: { mode: sni, listen: %q, to: { a.example: %q } }", at, backend.addr)
	const n = 20 << 20
	hello := string(helloFor("a.example"))
	for _, first := range []int{0, 3000, 100_000} {
		c := r.dial(at)
		data := make([]byte, first)
		c.out.Read(data)
		if err := c.say(hello + string(data)); err != nil {
			r.Fatal(err)
		}
		s := r.accept(backend)
		if err := s.hear(hello); err != nil {
			r.Fatal(err)
		}
		err := together(
			func() error { return wantSent(c.send(n), c) },
			func() error { return wantSent(s.send(n), s) },
			func() error { return s.all().want(first+n, "end") },
			func() error { return c.all().want(n, "end") },
		)
		if err != nil {
			r.Fatalf("%d bytes with the hello: %v", first, err)
		}
	}
}
