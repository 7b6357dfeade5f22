package foreign

import (
	"strings"
	"testing"
)

// TestHAProxyNotes: notes that depend on more than one line.
func TestHAProxyNotes(t *testing.T) {
	const (
		http  = "as it does in HAProxy without `mode http`"
		names = "server names are not carried over"
		a     = " server a a.b:1\n"
	)
	for name, c := range map[string]struct{ in, has, lacks string }{
		"http name":            {"listen http_in\n bind :5000\n" + a, http, names},
		"http port":            {"listen l\n bind :8080\n" + a, http, ""},
		"httplog":              {"listen l\n bind :5000\n option httplog\n" + a, http, ""},
		"mode http":            {"listen l\n bind :5000\n mode http\n" + a, "has `mode http`", http},
		"own mode tcp":         {"listen http_in\n bind :8080\n mode tcp\n option httplog\n" + a, "", http},
		"mode tcp by defaults": {"defaults\n mode tcp\n option httplog\nlisten redis\n bind *:8080\n" + a, "", http},
		"mode tcp of backend":  {"frontend http_in\n bind :80\n default_backend b\nbackend b\n mode tcp\n" + a, "", http},

		"name is the host":    {"listen l\n bind :1\n server a.b a.b:1\n server A A.c:1\n", "", names},
		"name is not":         {"listen l\n bind :1\n server x a.b:1\n", "in:3:11: " + names + ": metrics, log and status call a server by its host:port (x is a.b:1); dash", ""},
		"names":               {"listen l\n bind :1\n" + a + " server x c.b:1\n server y d.b:1\n server z e.b:1\n server u f.b:1\n", "in:4:11: " + names + ": metrics, log and status call a server by its host:port (x is c.b:1, y is d.b:1, z is e.b:1, 1 more); dash", ""},
		"names, two routes":   {"frontend f\n bind :1\n default_backend b\nfrontend g\n bind :2\n default_backend b\nbackend b\n server x a.b:1\n", "(x is a.b:1);", ""},
		"name without a port": {"listen l\n bind :1\n server x 10.0.0.1\n", "(x is 10.0.0.1)", ""},

		"check over TLS":          {"listen l\n bind :1\n option httpchk\n server a a.b:1 check ssl\n", "HTTP over TLS in HAProxy", ""},
		"check on its own port":   {"listen l\n bind :1\n option httpchk\n server a a.b:1 check ssl port 80\n", "", "HTTP over TLS"},
		"check-ssl":               {"listen l\n bind :1\n option httpchk\n server a a.b:1 check check-ssl port 80\n", "HTTP over TLS in HAProxy", ""},
		"TLS passes":              {"listen l\n bind :1 ssl crt x\n server a a.b:1 ssl\n", "`ssl crt x` is not carried over: midspan does not decrypt; TLS passes through unread", ""},
		"no client certificate":   {"listen l\n bind :1 ssl verify required\n server a a.b:1 ssl\n", "more may connect: `verify required` is not carried over", ""},
		"a backup that is plain":  {"listen l\n bind :1\n bind :2 ssl\n server a a.b:1 ssl\n server b b.b:1 backup\n", "`bind :2 ssl` is not carried over: midspan does not decrypt, and server b of listen l has no `ssl`", ""},
		"server is a listener":    {"listen l\n bind :1\n server a 127.0.0.1:2\n" + a + "listen m\n bind :2\n server b 127.0.0.1:1\n" + a, "in:3:11: server 127.0.0.1:2 is not carried over: route m listens there (line 6)", ""},
		"a frontend into another": {"listen l\n bind :1\n server a 127.0.0.1:2\n" + "listen m\n bind :2\n" + a, "", "not carried over: route"},
		"route into another":      {"listen l\n bind :1\n server a 127.0.0.1\nlisten m\n bind :2\n" + a, "in:1:1: route l is not carried over: no server is left", ""},
		"server beside health":    {"listen l\n bind :8080\n server a 127.0.0.1:8081\n", "`health` moves to 8082", ""},
		"weight 0 is left":        {"listen l\n bind :1\n server a 127.0.0.1:1\n server b a.b:3 weight 0\nlisten m\n bind :2\n" + a, "every server of route l has weight 0", ""},
		"rules of a lost section": {"listen k\n bind :1\n" + a + "listen l\n bind :2 ssl\n tcp-request connection reject\n" + a, "`listen l` (to line 7) is not carried over", openMark},
	} {
		t.Run(name, func(t *testing.T) {
			imp, _, err := importHAProxy("in", []byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			roundTrips(t, imp)
			got := shownNotes(imp)
			if !strings.Contains(got, c.has) || (c.lacks != "" && strings.Contains(got, c.lacks)) {
				t.Errorf("got\n%swant %q, not %q", got, c.has, c.lacks)
			}
		})
	}
}

// TestTLSAlone: where nothing else is there, the notes are the reasons.
func TestTLSAlone(t *testing.T) {
	_, _, err := importHAProxy("in", []byte("global\n daemon\nlisten l\n bind :443 ssl crt x\n server a a.b:80\n"))
	if err == nil || !strings.Contains(err.Error(), "\nin:3:1: `listen l` (to line 5) is not carried over: midspan does not decrypt") || strings.Contains(err.Error(), "daemon") {
		t.Error(err)
	}
}

// TestRanked: what widens access comes first; Notes keep the order of the file.
func TestRanked(t *testing.T) {
	in := "*nat\n-A PREROUTING -p udp -j DNAT --to-destination 10.0.0.1\n" +
		"-A PREROUTING ! -s 10.0.0.0/8 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.1\nCOMMIT\n" +
		"*filter\n-A FORWARD -s 10.0.0.0/8 -j ACCEPT\n-A FORWARD -j ACCEPT\nCOMMIT\n"
	imp, _, err := importIPTables("in", []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	order := ""
	for _, n := range imp.Ranked() {
		order += n.Pos.String() + " "
	}
	if want := "in:3:1 in:2:1 in:3:1 in:3:1 "; order != want {
		t.Errorf("ranked %s, want %s:\n%s", order, want, imp.Notes)
	}
	if imp.Notes[0].Pos.Line != 2 || len(imp.Needless) != 2 || imp.Needless[0].Pos.Line != 6 {
		t.Errorf("notes\n%s\nneedless\n%s", imp.Notes, imp.Needless)
	}
}
