package enginetest

import (
	"bytes"
	"slices"
	"strings"

	"midspan/internal/engine"
)

func sendProxyCases() []testCase {
	return []testCase{
		{"send_proxy", testSendProxy},
		{"send_proxy to the one that answers", testSendProxyRetry},
	}
}

func testSendProxy(r *rig) {
	backend := r.serve(nil)
	for _, tt := range []struct{ settings, in, want string }{
		{"send_proxy: v1", "", "own v1"},
		{"send_proxy: v2", "", "own v2"},
		{"send_proxy: v1, proxy_protocol: required", v2(far, front, linkID(9)), v1(far, front)},
		{"send_proxy: v2, proxy_protocol: required", v2(far, front, linkID(9)), v2(far, front, linkID(9))},
		{"send_proxy: v2, proxy_protocol: required", v1(far, front), v2(far, front, "")},
		{"send_proxy: v2, proxy_protocol: required", v2(far, front, "\x01\x00\x02h2") + v2(far, front, linkID(9)), v2(far, front, "\x01\x00\x02h2"+linkID(9))},
		{"send_proxy: v2, proxy_protocol: required", "PROXY UNKNOWN\r\n", "own v2"},
	} {
		at := r.route(", "+tt.settings, backend)
		for _, data := range []string{"", "hello"} {
			if data == "" && strings.Contains(tt.in, "UNKNOWN") {
				continue // a probe
			}
			c := r.dial(at)
			if err := c.say(tt.in + data); err != nil {
				r.Fatal(err)
			}
			s := r.accept(backend)
			want := tt.want
			switch want {
			case "own v1":
				want = v1(c.local, at)
			case "own v2":
				want = v2(c.local, at, "")
			}
			if err := s.hear(want + data); err != nil {
				r.Errorf("%s, %.20q: %v", tt.settings, tt.in, err)
			}
			if err := s.say("back"); err != nil {
				r.Fatal(err)
			}
			if err := c.hear("back"); err != nil {
				r.Error(err)
			}
			if all := r.engine.Conns(); len(all) != 1 || all[0].BytesUp != uint64(len(data)) {
				r.Errorf("listed is %+v, want %d bytes up: the header is none of the client's", all, len(data))
			}
			s.Close()
			if err := c.all().want(0, "end"); err != nil {
				r.Error(err)
			}
			c.Close()
			r.until("its end", func() bool { return len(r.engine.Conns()) == 0 })
		}
	}
}

// testSendProxyRetry: whatever was tried before, the server that is reached gets
// one header. Its socket may have served another client.
func testSendProxyRetry(r *rig) {
	backend := r.serve(func(p *peer) {
		b := make([]byte, 4096)
		var got []byte
		for !bytes.HasSuffix(got, []byte("end")) {
			n, err := p.Read(b)
			if err != nil {
				return
			}
			got = append(got, b[:n]...)
		}
		_, _ = p.Write(got)
		echo(p)
	})
	dead, slow := r.freePort(), r.freePort()
	r.apply("dead: { listen: %q, send_proxy: v1, balance: first, to: [%q, %q] }\nslow: { listen: %q, send_proxy: v1, balance: first, connect_timeout: 20s, to: [%q, %q] }",
		dead, r.dead().addr, backend.addr, slow, r.blackHole().addr, backend.addr)
	for i := range 50 {
		at := dead
		if i%25 == 0 {
			at = slow // the second is tried beside the first
		}
		c := r.dial(at)
		if err := c.say("end"); err != nil {
			r.Fatal(err)
		}
		if err := c.hear(v1(c.local, at) + "end"); err != nil {
			r.Fatal(err)
		}
		if err := c.bye(); err != nil {
			r.Fatal(err)
		}
	}
	ends := r.log.all()
	if !slices.ContainsFunc(ends, func(x *engine.Record) bool { return x.Retries > 0 }) {
		r.Error("no connection was tried in vain before")
	}
}
