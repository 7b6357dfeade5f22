package main

import (
	"bufio"
	"strconv"
	"strings"
	"testing"
)

func TestLex(t *testing.T) {
	tree, err := (&reader{}).text("test", `a "b \" c" 'd;e' x${y}z ~^f\.g$ "\\x00"; # no; 
h { i; }`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`b " c`, "d;e", "x${y}z", `~^f\.g$`, `\x00`}
	if len(tree) != 2 || strings.Join(tree[0].args, "|") != strings.Join(want, "|") || tree[1].block[0].name != "i" || tree[1].line != 2 {
		t.Errorf("%+v", tree[0])
	}
}

func define(t *testing.T, text string) map[string]definition {
	t.Helper()
	r := &reader{}
	tree, err := r.text("test", text)
	if err != nil {
		t.Fatal(err)
	}
	all, err := definitions(r, tree)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDefinitions(t *testing.T) {
	all := define(t, `
		map $v $m { a 1; default 0; ~^(?P<n>b+)$ $n; ~^(c) "$1$v"; }
		geo $v $g { default none; 10.0.0.0/8 ten; 10.1.0.0/16 one; delete 10.2.0.0/16; fd00::/8 six; }
		geo $v $r { ranges; default none; 10.0.0.0-10.0.0.9 low; 10.0.0.5-10.0.0.9 mid; delete 10.0.0.7-10.0.0.7; }
		split_clients $v $s { 50% half; * rest; }
		split_clients $v $all { 100% all; }`)
	for _, c := range []struct{ variable, value, want string }{
		{"m", "A", "1"},
		{"m", "x", "0"},
		{"m", "bb", "bb"},
		{"m", "cd", "ccd"},
		{"g", "10.3.0.1", "ten"},
		{"g", "10.1.9.9", "one"},
		{"g", "::ffff:10.1.0.1", "one"},
		{"g", "fd00::1", "six"},
		{"g", "11.0.0.1", "none"},
		{"g", "no address", "none"},
		{"r", "10.0.0.4", "low"},
		{"r", "10.0.0.6", "mid"},
		{"r", "10.0.0.7", "none"},
		{"all", "whoever", "all"},
	} {
		got, known := all[c.variable].value(func(string) (string, bool) { return c.value, true })
		if got != c.want || !known {
			t.Errorf("%s of %q: %q (%v), want %q", c.variable, c.value, got, known, c.want)
		}
	}
	if _, known := all["m"].value(func(string) (string, bool) { return "", false }); known {
		t.Error("a map of an unknown value is known")
	}
}

// TestSplit: of the numbers 1 to 20, nginx puts 12, 2 and 6 into these parts.
func TestSplit(t *testing.T) {
	s := define(t, "split_clients $v $s { 51.2% a; 10% b; * c; }")["s"]
	got := map[string]int{}
	for i := range 20 {
		part, _ := s.value(func(string) (string, bool) { return strconv.Itoa(i + 1), true })
		got[part]++
	}
	if got["a"] != 12 || got["b"] != 2 || got["c"] != 6 {
		t.Errorf("%v", got)
	}
}

func TestServerNames(t *testing.T) {
	b := &bind{}
	r := &reader{}
	for _, text := range []string{"localhost", "www.example.com", `~^(?P<n>[a-z]+)\.example\.com$`, "*.wc.example.com", "*.p.wc.example.com", "mail.*", ".dot.example"} {
		tree, err := r.text("test", "server_name "+text+";")
		if err != nil {
			t.Fatal(err)
		}
		names, err := serverNames(&directive{block: tree})
		if err != nil {
			t.Fatal(err)
		}
		b.units = append(b.units, &unit{names: names})
	}
	b.def = b.units[0]
	for name, want := range map[string]string{
		"": "localhost", "WWW.example.com": "www.example.com", "a.wc.example.com": "*.wc.example.com",
		"a.p.wc.example.com": "*.p.wc.example.com", "mail.x.y": "mail.*", "dot.example": "dot.example", "a.dot.example": "dot.example",
		"Blah.example.com": `~^(?P<n>[a-z]+)\.example\.com$`, "nothing": "localhost",
	} {
		if u, _ := b.byName(name); u.name() != want {
			t.Errorf("%q: %q, want %q", name, u.name(), want)
		}
	}
	if _, groups := b.byName("blah.example.com"); groups == nil {
		t.Error("no captures")
	} else if v, _ := groups("n"); v != "blah" {
		t.Errorf("captured %q", v)
	}
}

func TestHeader(t *testing.T) {
	text := signature + "\x21\x11\x00\x10" + "\x0a\x00\x00\x01\x0a\x00\x00\x02\x04\xd2\x16\x2e" + "\x02\x00\x01x" + "rest"
	r := bufio.NewReader(strings.NewReader(text))
	h, err := readHeader(r)
	if err != nil {
		t.Fatal(err)
	}
	if h.source.String() != "10.0.0.1:1234" || h.dest.String() != "10.0.0.2:5678" || h.tlvs[tlvAuthority] != "x" {
		t.Errorf("%+v", h)
	}
	if rest, _ := r.ReadString(0); rest != "rest" {
		t.Errorf("left: %q", rest)
	}
	for _, bad := range []string{"GET / HTTP/1.1\r\n\r\n", signature + "\x21\x11\x00\x0b" + strings.Repeat("x", 11), signature + "\x21\x11\x00\x0e" + strings.Repeat("x", 14)} {
		if _, err := readHeader(bufio.NewReader(strings.NewReader(bad))); err == nil {
			t.Errorf("%q is a header", bad)
		}
	}
}

func TestHello(t *testing.T) {
	// A ClientHello of TLS 1.2 for "foo", in two records.
	body := "\x01\x00\x00\x38\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\x00\x02\x00\x00" + "\x01\x00" +
		"\x00\x0c" + "\x00\x00\x00\x08\x00\x06\x00\x00\x03foo"
	body = body[:3] + string(rune(len(body)-4)) + body[4:]
	records := "\x16\x03\x01\x00\x0a" + body[:10] + "\x16\x03\x01\x00" + string(rune(len(body)-10)) + body[10:]
	for i := range records {
		if complete([]byte(records[:i])) {
			t.Fatalf("complete after %d of %d bytes", i, len(records))
		}
	}
	if !complete([]byte(records)) {
		t.Fatal("not complete")
	}
	if h, ok := parseHello([]byte(records)); !ok || h.name != "foo" || versionNames[h.version] != "TLSv1.2" {
		t.Errorf("%+v %v", h, ok)
	}
	if _, ok := parseHello([]byte("hello")); ok || !complete([]byte("hello")) {
		t.Error("text is a ClientHello")
	}
}

func TestEscape(t *testing.T) {
	for _, c := range []struct{ escape, in, want string }{
		{"default", "a\"\\\x01", `a\x22\x5C\x01`},
		{"default", "", "-"},
		{"json", "a\"\n", `a\"\u000A`},
		{"none", "a\"", `a"`},
	} {
		if got := (&format{escape: c.escape}).escaped(c.in); got != c.want {
			t.Errorf("%s of %q: %q, want %q", c.escape, c.in, got, c.want)
		}
	}
}
