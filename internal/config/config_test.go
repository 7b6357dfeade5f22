package config

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestBad parses every testdata/bad/*.yaml and compares all the problems, word
// by word, with the .want file beside it.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse("f.yaml", text)
			if err == nil {
				t.Fatal("no problem was found")
			}
			got := err.Error() + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}

func TestBadInMemory(t *testing.T) {
	nested := strings.Repeat("[", 50_000)
	bomb := "a: &a [x,x]\n"
	for i := range 30 {
		bomb += string(rune('b'+i%20)) + strings.Repeat("b", i) + ": &k" + strings.Repeat("k", i) + " [*a,*a]\n"
	}
	for name, text := range map[string]string{
		"empty":                "",
		"only comments":        "# nothing\n\n",
		"null":                 "~\n",
		"too large":            strings.Repeat("#", MaxSize+1),
		"binary":               "routes:\n  a: \x00\x01",
		"not UTF-8":            "routes: \xff\xfe",
		"deeply nested":        nested,
		"deeply nested blocks": strings.Repeat("a:\n ", 20_000),
		"alias of itself":      "routes: &a\n  x: *a\n",
		"aliases of aliases":   bomb + "routes: {r: {listen: *a, to: x:1}}\n",
		"a list":               "- a\n- b\n",
		"a word":               "hello\n",
		"half a mapping":       "routes: {a: {listen: 80",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte(text))
			if err == nil {
				t.Fatal("no problem was found")
			}
			for _, p := range err.(Problems) {
				if p.Pos.Line < 1 || p.Pos.Col < 1 || len(p.Text) > 2000 {
					t.Errorf("a problem without a place, or endless: %.200s", p)
				}
			}
		})
	}
}

const everything = `# all keys
health: {listen: 10.0.0.4:8080, down_when: any_route}
admin: off
control: /run/x.sock
log: {format: tcplog, to: stderr, start: false}
dns:
  servers: [10.0.0.2, "10.0.0.3:5353", "fd00::1"]
  min_ttl: 2s
  max_ttl: 1h30m
  timeout: 1s
drain: {detection: 0s, timeout: 1m}
max_connections: 5000
defaults: &d
  balance: leastconn
  connect_timeout: 5s
  idle_timeout: off
  fin_timeout: 30m
  user_timeout: 90s
  keepalive: {idle: 30s, interval: 10s, count: 3}
  check: {kind: tcp, every: 2s, timeout: 1s, rise: 1, fall: 2}
  max_connections: 100
routes:
  one:
    mode: tcp
    listen: [80, "*:81", "%eth0:82", "10.0.0.4%eth0:83", "[fd00::4]:84", 90-99]
    to:
      - a.example.com:80
      - {server: B.example.com, weight: 3, backup: true, max_connections: 7}
      - server: "[fd00::9]:80"
      - server: c:+1000
    keepalive: off
    check: {http: /healthz, host: h.example.com, port: 81}
  two: {listen: "1434", to: 10.0.0.1:1433, check: tcp, keepalive: 45s}
  three: {listen: 1435, to: 10.0.0.1:1433, check: off}
  four: {listen: 1436, to: 10.0.0.1:1433, check: {http: /, status: [200-299, 404], expect: "\u00e9t\u00e9 \u2713"}}
  five: {listen: 1437, to: 10.0.0.1:1433, check: {http: /, status: 204}}
  six: {listen: 1438, to: 10.0.0.1:1433, check: {send: "PING\r\n\x00\xff\x80\x85", expect: "+PONG\e\n  x"}}
  seven: {listen: 1439, to: 10.0.0.1:1433, check: {kind: tds, every: 3s}}
`

// TestRoundTrip: what Encode writes, Parse reads as the same file, and Encode
// writes again as the same text.
func TestRoundTrip(t *testing.T) {
	f, err := Parse("f", []byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	text := Encode(f)
	again, err := Parse("f", text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	forget(reflect.ValueOf(f))
	forget(reflect.ValueOf(again))
	if !reflect.DeepEqual(f, again) {
		t.Errorf("changed by a round trip:\n%s", text)
	}
	if second := Encode(again); string(second) == "" {
		t.Error("nothing left")
	}
}

// forget makes all positions the same, for comparison.
func forget(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		forget(v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			forget(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[Pos]() {
			if !v.IsZero() && v.CanSet() {
				v.Set(reflect.ValueOf(Pos{"f", 1, 1}))
			}
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				forget(v.Field(i))
			}
		}
	}
}

func TestListenForms(t *testing.T) {
	for in, want := range map[string]string{
		"1434": "1434", ":1434": "1434", "*:1434": "1434", "9092-9094": "9092-9094", "10.0.0.4:80": "10.0.0.4:80",
		"[::1]:80": "[::1]:80", "[::]:80": "[::]:80", "%eth0:80": "%eth0:80", "*%eth0:80": "%eth0:80", "10.0.0.4%eth0:80-81": "10.0.0.4%eth0:80-81",
		"0.0.0.0:80": "0.0.0.0:80", "[fe80::1]%eth0:80": "[fe80::1]%eth0:80",
	} {
		l, err := ParseListen(in)
		if err != nil || l.String() != want {
			t.Errorf("%q: %v, %v; want %s", in, l, err, want)
		}
	}
	for _, in := range []string{"", ":", "0", "65536", "-1", "80-", "80-70", "host:80", "::1:80", "[10.0.0.1]x:80", "%:80", "%a/b:80", "%waytoolonginterface:80", "+80", "022", "10.0.0.1:0", "[fe80::1%eth0]:80", "%et\x01h:80", "%ethé:80", "10.0.0.1]:80"} {
		if l, err := ParseListen(in); err == nil {
			t.Errorf("%q was read as %v", in, l)
		}
	}
}

func TestTargetForms(t *testing.T) {
	for in, want := range map[string]Target{
		"h:1433":       {Host: "h", Port: 1433},
		"SQL1.Corp:80": {Host: "sql1.corp", Port: 80},
		"h":            {Host: "h"},
		"h.":           {Host: "h."},
		"h:+100":       {Host: "h", Shift: 100},
		"h:-100":       {Host: "h", Shift: -100},
		"10.0.0.1:5":   {Host: "10.0.0.1", Port: 5},
		"[::1]:5":      {Host: "::1", Port: 5},
		"[::1]":        {Host: "::1"},
		"my_db:3306":   {Host: "my_db", Port: 3306},
	} {
		got, err := ParseTarget(in)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("%q: written as %q, read as %+v, %v", in, got.String(), again, err)
		}
	}
	for _, in := range []string{"", ":80", "h:", "h:0", "h:65536", "http://h:80", "h h:80", "-h:80", "10.0.0.256:80", "[::1", "[::1]80", "[h]:80", "h:1:2", "[fe80::1%eth0]:80", "fe80::1%eth0", "::1", "fd00::4:1433", "h:022", strings.Repeat("x", 64) + ":1", "1433"} {
		if got, err := ParseTarget(in); err == nil {
			t.Errorf("%q was read as %+v", in, got)
		}
	}
}

func TestDurationForms(t *testing.T) {
	for _, in := range []string{"1ms", "1500ms", "3s", "1m30s", "1h", "1h30m", "26h", "0s"} {
		d, err := parseDuration(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if again, err := parseDuration(FormatDuration(d)); err != nil || again != d {
			t.Errorf("%s: written as %s, read as %s, %v", in, FormatDuration(d), again, err)
		}
	}
	if got := FormatDuration(90 * time.Minute); got != "1h30m" {
		t.Error(got)
	}
}

func TestSuggest(t *testing.T) {
	for got, want := range map[string]string{"listne": `"listen"`, "Listen": `"listen"`, "too": `"to"`, "healthcheck": "use listen, to, check"} {
		if s := suggest(got, []string{"listen", "to", "check"}); !strings.Contains(s, want) {
			t.Errorf("%s: %s; want %s", got, s, want)
		}
	}
}

// FuzzParse: no input may panic; what is accepted survives a round trip.
func FuzzParse(f *testing.F) {
	f.Add([]byte(everything))
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse("f", text)
		if err != nil {
			if ps, ok := err.(Problems); !ok || len(ps) == 0 {
				t.Fatalf("an error without problems: %v", err)
			}
			return
		}
		again, err := Parse("f", Encode(file))
		if err != nil {
			t.Fatalf("Encode wrote what Parse refuses: %v\n%s", err, Encode(file))
		}
		forget(reflect.ValueOf(file))
		forget(reflect.ValueOf(again))
		if !reflect.DeepEqual(file, again) {
			t.Fatalf("changed by a round trip:\n%s", Encode(file))
		}
	})
}

// TestLinkIDs: a link id may be written as the log has it, and names of what has
// problems are kept for a look at the rest.
func TestLinkIDs(t *testing.T) {
	f, err := Parse("f", []byte("consumers: {a: {link_id: [azure:99, 7]}}\nroutes: {r: {listen: 1, to: h:1}}\n"))
	if err != nil || len(f.Consumers[0].LinkID) != 2 || f.Consumers[0].LinkID[0].V != 99 || f.Consumers[0].Broken {
		t.Errorf("%+v %v", f, err)
	}
	f, err = Parse("f", []byte("consumers: {a: {link_id: x, routes: s}}\nroutes: {r: {listen: 1, to: h:1}, s: {listen: 0, to: h:1}}\n"))
	if err == nil || len(f.Consumers) != 1 || !f.Consumers[0].Broken || f.Consumers[0].Routes[0].V != "s" || len(f.BrokenRoutes) != 1 || f.BrokenRoutes[0] != "s" {
		t.Errorf("%+v %v", f, err)
	}
}
