package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// record is a line of the JSON access log.
type record struct {
	Time       time.Time `json:"time"`
	Event      string    `json:"event"`
	ID         string    `json:"id"`
	Route      string    `json:"route"`
	Client     string    `json:"client"`
	Peer       string    `json:"peer"`
	Link       string    `json:"link"`
	Consumer   string    `json:"consumer"`
	ServerName string    `json:"server_name"`
	Server     string    `json:"server"`
	Endpoint   string    `json:"endpoint"`
	DurationMS float64   `json:"duration_ms"`
	BytesUp    int64     `json:"bytes_up"`
	BytesDown  int64     `json:"bytes_down"`
	Reason     string    `json:"reason"`
	Error      string    `json:"error"`
}

func parseRecords(t *testing.T, text string) []record {
	t.Helper()
	var all []record
	for line := range strings.Lines(text) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("the access log has a line that is no JSON: %v: %s", err, line)
		}
		all = append(all, r)
	}
	return all
}

// visit is one connection of a known course.
type visit struct {
	route      string
	do         func(t *testing.T, addr string) (client string)
	up, down   int64 // -1: any
	reason     string
	noServer   bool // there is no start record either
	wantsError bool
}

// logVisits are the courses; the servers are those of logRoutes.
var logVisits = []visit{
	{"echo", visitEcho(0), 0, 0, "closed by client", false, false},
	{"echo", visitEcho(1), 1, 1, "closed by client", false, false},
	{"echo", visitEcho(100_000), 100_000, 100_000, "closed by client", false, false},
	{"echo", visitEcho(3 << 20), 3 << 20, 3 << 20, "closed by client", false, false},
	{"greet", func(t *testing.T, addr string) string {
		c := dial(t, addr)
		wantAll(t, c, 50_000)
		return c.LocalAddr().String()
	}, 0, 50_000, "closed by server", false, false},
	{"echo", func(t *testing.T, addr string) string {
		c := dial(t, addr)
		if err := exchange(c, 1, 500); err != nil {
			t.Error(err)
		}
		reset(t, c)
		return c.LocalAddr().String()
	}, 500, 500, "reset by client", false, false},
	{"cut", func(t *testing.T, addr string) string {
		c := dial(t, addr)
		if _, err := c.Write(rig.Bytes(1, 700)); err != nil {
			t.Error(err)
		}
		wantReset(t, c)
		return c.LocalAddr().String()
	}, 700, 0, "reset by server", false, false},
	{"dead", visitDead, 0, 0, "connect failed", true, true},
}

// logRoutes are the routes of logVisits, and their addresses by name.
func logRoutes(t *testing.T) (text string, addrs map[string]string) {
	t.Helper()
	servers := map[string]string{
		"echo": rig.Serve(t, nil, "127.0.0.1:0", rig.Echo).Addr,
		"greet": rig.Serve(t, nil, "127.0.0.1:0", func(c *net.TCPConn) {
			_, _ = rig.Send(c, 1, 50_000) // the client counts
		}).Addr,
		"cut": rig.Serve(t, nil, "127.0.0.1:0", func(c *net.TCPConn) {
			if _, err := rig.Receive(c, 700); err == nil {
				_ = c.SetLinger(0) // so that close resets
			}
		}).Addr,
		"dead": rig.Addr(t, "127.0.0.1"),
	}
	addrs = map[string]string{}
	text = "routes:\n"
	for name, server := range servers {
		addrs[name] = rig.Addr(t, "127.0.0.1")
		text += fmt.Sprintf("  %s: { listen: %q, to: %q }\n", name, addrs[name], server)
	}
	return text, addrs
}

// TestAccessLogJSON wants a start and an end record of each connection, with
// the bytes that went, to the byte.
func TestAccessLogJSON(t *testing.T) {
	f := rig.NewFile(t)
	f.Log = "json"
	text, addrs := logRoutes(t)
	f.Write("%s", text)
	m := rig.Run(t, f)
	clients := make([]string, len(logVisits))
	want := 0
	for i, v := range logVisits {
		clients[i] = v.do(t, addrs[v.route])
		if want += 2; v.noServer {
			want--
		}
	}
	rig.Until(t, rig.Patience, fmt.Sprintf("the log has %d lines", want), func() bool { return strings.Count(m.Stdout(), "\n") == want })
	records := map[string]record{}
	for _, r := range parseRecords(t, m.Stdout()) {
		records[r.Event+" "+r.Client] = r
	}
	for i, v := range logVisits {
		start, end := records["start "+clients[i]], records["end "+clients[i]]
		v.check(t, start, end)
	}
}

func (v visit) check(t *testing.T, start, end record) {
	t.Helper()
	if end.Route != v.route || end.BytesUp != v.up || end.BytesDown != v.down || end.Reason != v.reason {
		t.Errorf("want %s: %d up, %d down, %s; logged %+v", v.route, v.up, v.down, v.reason, end)
	}
	if v.wantsError != (end.Error != "") {
		t.Errorf("%s: error is %q", v.route, end.Error)
	}
	if v.noServer {
		if start.ID != "" {
			t.Errorf("%s: a start record without a server: %+v", v.route, start)
		}
		return
	}
	if start.ID == "" || start.ID != end.ID || start.Server == "" || start.Server != end.Server || start.Endpoint == "" {
		t.Errorf("%s: start %+v and end %+v do not belong together", v.route, start, end)
	}
	if end.Time.Before(start.Time) || end.DurationMS <= 0 {
		t.Errorf("%s: from %s to %s in %g ms", v.route, start.Time, end.Time, end.DurationMS)
	}
}

// tcplog is HAProxy's format as its configuration manual has it (8.2.2), for
// tools that read it:
//
//	client_ip:client_port [accept_date] frontend backend/server Tw/Tc/Tt bytes state actconn/feconn/beconn/srv_conn/retries srv_queue/backend_queue
var tcplog = regexp.MustCompile(`^[0-9a-fA-F.:]+:\d{1,5} \[\d{2}/(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)/\d{4}:\d{2}:\d{2}:\d{2}\.\d{3}\] ` +
	`(\S+) (\S+)/(\S+) -?\d+/-?\d+/\+?\d+ \+?(\d+) ([CSPLRIDUKcs-][RQCHDLTK-]) \d+/\d+/\d+/\d+/\+?\d+ \d+/\d+$`)

// TestAccessLogTCP writes HAProxy's format to a file, which is renamed away in
// between.
func TestAccessLogTCP(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	f := rig.NewFile(t)
	f.Log = fmt.Sprintf("{ format: tcplog, to: %q }", path)
	text, addrs := logRoutes(t)
	f.Write("%s", text)
	m := rig.Run(t, f)
	for _, v := range logVisits {
		v.do(t, addrs[v.route])
	}
	awaitLines(t, path, len(logVisits))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	m.Control("reload")
	for _, v := range logVisits {
		v.do(t, addrs[v.route])
	}
	awaitLines(t, path, len(logVisits))
	states := map[string]string{"closed by client": "--", "closed by server": "--", "reset by client": "CD", "reset by server": "SD", "connect failed": "SC"}
	for _, file := range []string{path, path + ".1"} {
		left := map[string]int{}
		for _, v := range logVisits {
			left[fmt.Sprint(v.route, " ", v.down, " ", states[v.reason])]++
		}
		for line := range strings.Lines(readFile(t, file)) {
			m := tcplog.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			if m == nil {
				t.Errorf("no line of HAProxy's: %s", line)
				continue
			}
			left[m[2]+" "+m[5]+" "+m[6]]--
		}
		for what, n := range left {
			if n != 0 {
				t.Errorf("%s: %d lines too few with route, bytes and state %s", filepath.Base(file), n, what)
			}
		}
	}
}

func awaitLines(t *testing.T, path string, n int) {
	t.Helper()
	rig.Until(t, rig.Patience, fmt.Sprintf("%s has %d lines", filepath.Base(path), n), func() bool {
		return strings.Count(string(readIfThere(path)), "\n") == n
	})
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
