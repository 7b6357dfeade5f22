package accesslog

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"midspan/internal/engine"
)

var accepted = time.Date(2009, time.February, 6, 12, 12, 51, 443e6, time.UTC)

// ended is the record of HAProxy's own example of a tcplog line.
func ended() *engine.Record {
	return &engine.Record{
		Conn: engine.Conn{
			ID: "17", Route: "fnt", Start: accepted,
			Client: netip.MustParseAddrPort("10.0.1.2:33313"),
			Server: "srv1:8000", Endpoint: netip.MustParseAddrPort("127.0.0.1:8000"),
			BytesUp: 99, BytesDown: 212,
		},
		End: accepted.Add(5007 * time.Millisecond), Connect: 1250 * time.Microsecond,
		Reason: engine.ClosedByClient, TotalActive: 3, RouteActive: 2, ServerActive: 1,
	}
}

func with(change func(*engine.Record)) *engine.Record {
	r := ended()
	change(r)
	return r
}

func started(r *engine.Record) { r.End, r.Reason, r.BytesUp, r.BytesDown = time.Time{}, "", 0, 0 }

func noServer(r *engine.Record) {
	r.Server, r.Endpoint, r.Connect, r.Reason, r.ServerActive = "", netip.AddrPort{}, 0, engine.NoServer, 0
	r.BytesUp, r.BytesDown = 0, 0
}

var caller = engine.Caller{
	Peer: netip.MustParseAddrPort("10.1.0.4:1024"), Link: "azure:553665985", Consumer: "databricks-prod", ServerName: `a"b`,
	TLS: &engine.TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256", Protocol: "h2", Resumed: true},
}

// requested makes a record one of a request.
func requested(r *engine.Record) {
	r.Reason = ""
	r.HTTP = &engine.HTTP{
		Method: "GET", Host: "api.example.com", Path: `/x?q="1"`, Protocol: "HTTP/1.1", Status: 200, Wait: 20500 * time.Microsecond,
	}
}

func TestJSON(t *testing.T) {
	for name, tt := range map[string]struct {
		record *engine.Record
		want   string
	}{
		"start": {
			with(started),
			`{"time":"2009-02-06T12:12:51.443Z","event":"start","id":"17","route":"fnt","client":"10.0.1.2:33313","server":"srv1:8000","endpoint":"127.0.0.1:8000"}`,
		},
		"end": {
			ended(),
			`{"time":"2009-02-06T12:12:56.450Z","event":"end","id":"17","route":"fnt","client":"10.0.1.2:33313","server":"srv1:8000","endpoint":"127.0.0.1:8000",` +
				`"duration_ms":5007.000,"connect_ms":1.250,"bytes_up":99,"bytes_down":212,"reason":"closed by client","retries":0}`,
		},
		"no server": {
			with(noServer),
			`{"time":"2009-02-06T12:12:56.450Z","event":"end","id":"17","route":"fnt","client":"10.0.1.2:33313",` +
				`"duration_ms":5007.000,"bytes_up":0,"bytes_down":0,"reason":"no server up","retries":0}`,
		},
		"IPv6, another zone, an error that tries to be a line of its own": {
			with(func(r *engine.Record) {
				r.Client = netip.MustParseAddrPort("[2001:db8::1]:33313")
				r.Endpoint = netip.MustParseAddrPort("[fe80::1%eth0]:8000")
				r.End = r.End.In(time.FixedZone("", 3600))
				r.Tried = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("[::ffff:10.0.0.2]:80")}
				r.Err, r.Retries = "dial \"x\"\n{\"event\":\"end\"}\x00\x1b[31m\xff\\", 3
			}),
			`{"time":"2009-02-06T12:12:56.450Z","event":"end","id":"17","route":"fnt","client":"[2001:db8::1]:33313","server":"srv1:8000","endpoint":"[fe80::1%eth0]:8000",` +
				`"duration_ms":5007.000,"connect_ms":1.250,"bytes_up":99,"bytes_down":212,"reason":"closed by client","retries":3,"tried":["10.0.0.1:80","10.0.0.2:80"],` +
				`"error":"dial \"x\"\n{\"event\":\"end\"}\u0000\u001b[31m\ufffd\\"}`,
		},
		"a caller behind a private endpoint": {
			with(func(r *engine.Record) {
				started(r)
				r.Caller = caller
			}),
			`{"time":"2009-02-06T12:12:51.443Z","event":"start","id":"17","route":"fnt","client":"10.0.1.2:33313",` +
				`"peer":"10.1.0.4:1024","link":"azure:553665985","consumer":"databricks-prod","server_name":"a\"b","tls":"1.3","cipher":"TLS_AES_128_GCM_SHA256","alpn":"h2","resumed":true,"server":"srv1:8000","endpoint":"127.0.0.1:8000"}`,
		},
		"a broker's port": {
			with(func(r *engine.Record) {
				started(r)
				r.Node = new(int32)
			}),
			`{"time":"2009-02-06T12:12:51.443Z","event":"start","id":"17","route":"fnt","node":0,"client":"10.0.1.2:33313","server":"srv1:8000","endpoint":"127.0.0.1:8000"}`,
		},
		"a request": {
			with(requested),
			`{"time":"2009-02-06T12:12:56.450Z","event":"end","id":"17","route":"fnt","client":"10.0.1.2:33313","server":"srv1:8000","endpoint":"127.0.0.1:8000",` +
				`"method":"GET","host":"api.example.com","path":"/x?q=\"1\"","protocol":"HTTP/1.1","status":200,"wait_ms":20.500,` +
				`"duration_ms":5007.000,"connect_ms":1.250,"bytes_up":99,"bytes_down":212,"retries":0}`,
		},
		"a connection without an answer": {
			with(func(r *engine.Record) {
				noServer(r)
				r.Reason, r.HTTP = engine.BadRequest, &engine.HTTP{}
			}),
			`{"time":"2009-02-06T12:12:56.450Z","event":"end","id":"17","route":"fnt","client":"10.0.1.2:33313",` +
				`"duration_ms":5007.000,"bytes_up":0,"bytes_down":0,"reason":"bad request","retries":0}`,
		},
		"IPv4 as a dual-stack socket sees it": {
			with(func(r *engine.Record) {
				started(r)
				r.Client = netip.MustParseAddrPort("[::ffff:10.0.1.2]:33313")
			}),
			`{"time":"2009-02-06T12:12:51.443Z","event":"start","id":"17","route":"fnt","client":"10.0.1.2:33313","server":"srv1:8000","endpoint":"127.0.0.1:8000"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			line := string(appendJSON(nil, tt.record))
			if line != tt.want+"\n" {
				t.Errorf("got  %swant %s", line, tt.want)
			}
			if !json.Valid([]byte(line)) {
				t.Error("no valid JSON")
			}
		})
	}
}

// The lines are those that HAProxy 2.6 writes for the same events, but for the
// queue time, which it rounds up to 1.
func TestTCPLog(t *testing.T) {
	for name, tt := range map[string]struct {
		record *engine.Record
		want   string
	}{
		"end": {
			ended(),
			"10.0.1.2:33313 [06/Feb/2009:12:12:51.443] fnt fnt/srv1:8000 0/1/5007 212 -- 3/2/1/0/0 0/0",
		},
		"IPv6 has no brackets": {
			with(func(r *engine.Record) { r.Client = netip.MustParseAddrPort("[::1]:55210") }),
			"::1:55210 [06/Feb/2009:12:12:51.443] fnt fnt/srv1:8000 0/1/5007 212 -- 3/2/1/0/0 0/0",
		},
		"refused": {
			with(func(r *engine.Record) { r.Connect, r.Reason, r.Retries, r.BytesDown = 0, engine.ConnectFailed, 1, 0 }),
			"10.0.1.2:33313 [06/Feb/2009:12:12:51.443] fnt fnt/srv1:8000 0/-1/5007 0 SC 3/2/1/0/1 0/0",
		},
		"no server": {
			with(noServer),
			"10.0.1.2:33313 [06/Feb/2009:12:12:51.443] fnt fnt/<NOSRV> -1/-1/5007 0 SC 3/2/1/0/0 0/0",
		},
		"the only connection": {
			with(func(r *engine.Record) {
				r.Reason, r.TotalActive, r.RouteActive, r.ServerActive = engine.Killed, 1, 1, 1
			}),
			"10.0.1.2:33313 [06/Feb/2009:12:12:51.443] fnt fnt/srv1:8000 0/1/5007 212 K- 1/1/0/0/0 0/0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := string(appendHaproxy(nil, tt.record, time.UTC)); got != tt.want+"\n" {
				t.Errorf("got  %swant %s", got, tt.want)
			}
		})
	}
	east := time.FixedZone("", 2*3600)
	if got := string(appendTCP(nil, ended(), east)); !strings.Contains(got, "[06/Feb/2009:14:12:51.443]") {
		t.Errorf("not in local time: %s", got)
	}
}

// The lines are those that HAProxy 2.6 writes for the same events, but for the
// bytes, of which it counts the heads too.
func TestHTTPLog(t *testing.T) {
	never := func(r *engine.Record) { r.Connect, r.HTTP.Status, r.HTTP.Wait, r.BytesDown = 0, 0, 0, 0 }
	for name, tt := range map[string]struct {
		change func(*engine.Record)
		want   string
	}{
		"answered": {
			func(*engine.Record) {},
			`fnt/srv1:8000 0/0/1/20/5007 200 212 - - ---- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"no control characters, no way out of the quotes": {
			func(r *engine.Record) { r.HTTP.Path = "/\x1b[31m#\n\xff" },
			`fnt/srv1:8000 0/0/1/20/5007 200 212 - - ---- 3/2/1/0/0 0/0 "GET /#1B[31m#23#0A#FF HTTP/1.1"`,
		},
		"no server": {
			func(r *engine.Record) {
				never(r)
				noServer(r)
				r.HTTP.Status = 503
			},
			`fnt/<NOSRV> 0/-1/-1/-1/5007 503 0 - - SC-- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"not understood": {
			func(r *engine.Record) {
				noServer(r)
				r.Reason, r.HTTP = engine.BadRequest, &engine.HTTP{Status: 400}
			},
			`fnt/<NOSRV> -1/-1/-1/-1/5007 400 0 - - PR-- 3/2/1/0/0 0/0 "<BADREQ>"`,
		},
		"the client does not wait for the answer": {
			func(r *engine.Record) {
				r.Reason, r.HTTP.Status, r.HTTP.Wait, r.BytesDown = engine.ResetByClient, 0, 0, 0
			},
			`fnt/srv1:8000 0/0/1/-1/5007 -1 0 - - CH-- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"the server resets before its answer": {
			func(r *engine.Record) { r.Reason, r.HTTP.Status, r.HTTP.Wait = engine.ResetByServer, 502, 0 },
			`fnt/srv1:8000 0/0/1/-1/5007 502 212 - - SH-- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"over a connection that was there": {
			func(r *engine.Record) { r.Connect = 0 },
			`fnt/srv1:8000 0/0/0/20/5007 200 212 - - ---- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"the client goes in the middle of that": {
			func(r *engine.Record) { r.Connect, r.Reason = 0, engine.ClosedByClient },
			`fnt/srv1:8000 0/0/0/20/5007 200 212 - - CD-- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"an upgraded connection ends": {
			func(r *engine.Record) { r.Reason, r.HTTP.Status = engine.ClosedByClient, 101 },
			`fnt/srv1:8000 0/0/1/20/5007 101 212 - - ---- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"no server can be reached": {
			func(r *engine.Record) {
				never(r)
				r.Reason, r.HTTP.Status, r.Retries = engine.ConnectFailed, 503, 3
			},
			`fnt/srv1:8000 0/0/-1/-1/5007 503 0 - - SC-- 3/2/1/0/3 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"the server takes too long": {
			func(r *engine.Record) {
				r.Reason, r.HTTP.Status, r.HTTP.Wait, r.BytesDown = engine.ResponseTimeout, 504, 0, 0
			},
			`fnt/srv1:8000 0/0/1/-1/5007 504 0 - - sH-- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"the server does not speak HTTP": {
			func(r *engine.Record) {
				r.Reason, r.HTTP.Status, r.HTTP.Wait, r.BytesDown = engine.BadResponse, 502, 0, 0
			},
			`fnt/srv1:8000 0/0/1/-1/5007 502 0 - - PH-- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"a bad chunk in the middle of the answer": {
			func(r *engine.Record) { r.Reason = engine.BadResponse },
			`fnt/srv1:8000 0/0/1/20/5007 200 212 - - PD-- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
		"the request never was whole": {
			func(r *engine.Record) {
				noServer(r)
				r.Reason, r.HTTP = engine.OpeningTimeout, &engine.HTTP{Status: 408}
			},
			`fnt/<NOSRV> -1/-1/-1/-1/5007 408 0 - - cR-- 3/2/1/0/0 0/0 "<BADREQ>"`,
		},
		"and the client is gone": {
			func(r *engine.Record) {
				noServer(r)
				r.Reason, r.HTTP = engine.ClosedByClient, &engine.HTTP{}
			},
			`fnt/<NOSRV> -1/-1/-1/-1/5007 -1 0 - - CR-- 3/2/1/0/0 0/0 "<BADREQ>"`,
		},
		"and in the middle of it": {
			func(r *engine.Record) { r.Reason = engine.ResetByServer },
			`fnt/srv1:8000 0/0/1/20/5007 200 212 - - SD-- 3/2/1/0/0 0/0 "GET /x?q=#221#22 HTTP/1.1"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := with(requested)
			tt.change(r)
			want := "10.0.1.2:33313 [06/Feb/2009:12:12:51.443] fnt " + tt.want + "\n"
			if got := string(appendHaproxy(nil, r, time.UTC)); got != want {
				t.Errorf("got  %swant %s", got, want)
			}
		})
	}
}

func TestEveryReasonHasAState(t *testing.T) {
	for _, reason := range engine.Reasons {
		for i, s := range states[reason] {
			if i == 1 && s == "" {
				continue // the same whether connected or not
			}
			if len(s) != 2 || !strings.Contains("CSPLRIDUKcs-", s[:1]) || !strings.Contains("RQCHD-", s[1:]) {
				t.Errorf("%s: HAProxy has no state %q", reason, s)
			}
		}
	}
	for reason := range states {
		if !slices.Contains(engine.Reasons, reason) {
			t.Errorf("%q is no reason", reason)
		}
	}
	early := with(func(r *engine.Record) { r.Reason, r.Connect = engine.ResetByClient, 0 })
	if got := stateOf(early); got != "CC" {
		t.Errorf("reset by the client before the connect: %s, want CC", got)
	}
}

func FuzzString(f *testing.F) {
	for _, s := range []string{"", "plain", "\"\\\n\t\r\x00\x1f\x7f", "ü\xff\u2028\U0001f600", "\xe2\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		line := appendString(nil, s)
		var back string
		if err := json.Unmarshal(line, &back); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		want := s
		if !utf8.ValidString(s) {
			clean, _ := json.Marshal(s) // replaces each bad byte
			_ = json.Unmarshal(clean, &want)
		}
		if back != want {
			t.Errorf("%q became %q", want, back)
		}
		if strings.ContainsAny(string(line), "\n\r\x00\x1b") {
			t.Errorf("control characters in %q", line)
		}
	})
}

func BenchmarkJSON(b *testing.B) {
	r := with(func(r *engine.Record) { r.Err = "connect: connection refused" })
	var buf []byte
	for b.Loop() {
		buf = appendJSON(buf[:0], r)
	}
}

func BenchmarkTCPLog(b *testing.B) {
	r := ended()
	var buf []byte
	for b.Loop() {
		buf = appendTCP(buf[:0], r, time.Local)
	}
}
