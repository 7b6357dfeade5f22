package admin

import (
	"encoding/json"
	"html/template"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"midspan/internal/daemon"
	"midspan/internal/engine"
	"midspan/internal/plan"
)

// ask makes one request with a Host header of its own.
func (r *rig) ask(t *testing.T, method, path, host string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.adminURL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestWeb(t *testing.T) {
	r := start(t, func(p *plan.Plan) {
		p.Routes[0].Name = "<script>alert(1)</script>"
		p.Routes[0].Engine = plan.Relay
	})
	r.engine.conns = []engine.Conn{{ID: "17", Caller: engine.Caller{
		Peer: netip.MustParseAddrPort("10.0.0.9:5"), Link: "azure:17", Consumer: "onprem", ServerName: "kafka1",
	}}}
	for path, want := range map[string][]string{
		"/": {
			"Version 1.2.3, running since", "Ready.", "1 of at most 1000 connections", "&lt;script&gt;alert(1)&lt;/script&gt;",
			"10.0.0.5 up", "<td>relay", "1234 entries of at most 262144.", "a warning", "<td>onprem<td class=\"n\">1<td class=\"n\">9<td class=\"n\"><span class=\"down\">2</span>", `<a href="/metrics">`, "*:1433",
		},
		"/metrics": {"midspan_ready 1", "midspan_log_records_dropped_total 4", "go_goroutines", "process_open_fds", `midspan_consumer_refused_total{consumer="onprem"} 2`},
		"/status":  {`"version": "1.2.3"`, `"state": "running"`, `"ready": true`, `"engines": {`, `"consumers": [`},
		"/conns":   {`"id": "17"`, `"link": "azure:17"`, `"consumer": "onprem"`, `"server_name": "kafka1"`, `"peer": "10.0.0.9:5"`},
	} {
		resp, body := r.ask(t, http.MethodGet, path, "")
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s", path, resp.Status)
		}
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s: no %q in\n%s", path, w, body)
			}
		}
		if path == "/" && strings.Contains(body, "<script") {
			t.Errorf("%s: not escaped", path)
		}
		if h := resp.Header; h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Security-Policy") == "" {
			t.Errorf("%s: headers %v", path, h)
		}
		for _, method := range []string{http.MethodPost, http.MethodDelete, http.MethodPut} {
			if resp, _ := r.ask(t, method, path, ""); resp.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %s", method, path, resp.Status)
			}
		}
	}
	if resp, _ := r.ask(t, http.MethodGet, "/v1/status", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("the control API is not for here: %s", resp.Status)
	}
}

func TestConnsIsAlwaysAList(t *testing.T) {
	r := start(t, nil)
	var conns []engine.Conn
	_, body := r.ask(t, http.MethodGet, "/conns", "")
	if err := json.Unmarshal([]byte(body), &conns); err != nil || strings.TrimSpace(body) != "[]" {
		t.Errorf("%q, %v", body, err)
	}
}

func TestHosts(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:9600": true, "[::1]:9600": true, "[::1]": true, "10.1.2.3:9600": true, "[fe80::1%eth0]:9600": true,
		"localhost": true, "LOCALHOST:9600": true, "localhost.:9600": true, "": true,
		"attacker.example": false, "attacker.example:9600": false, "localhost.attacker.example": false, "127.0.0.1.nip.io": false, "1": false,
	} {
		if got := ownHost(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
	r := start(t, nil)
	resp, body := r.ask(t, http.MethodGet, "/status", "attacker.example:9600")
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(body, `not under the name "attacker.example:9600"`) || strings.Contains(body, "running") {
		t.Errorf("%s: %s", resp.Status, body)
	}
}

// TestPage: the page says since when the state lasts, and what was refused.
func TestPage(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	page := indexPage{Status: Status{Status: daemon.Status{State: daemon.Draining, Since: at, StateSince: at.Add(time.Hour)}}}
	page.Rows = []indexRow{{Route: &plan.Route{Name: "r"}, RouteStatus: engine.RouteStatus{Counters: engine.Counters{
		Accepted: 9, Ended: map[engine.Reason]uint64{engine.UnknownConsumer: 2, engine.RateLimit: 1, engine.ClosedByClient: 6},
	}}}}
	var b strings.Builder
	if err := template.Must(template.New("").Parse(indexHTML)).Execute(&b, page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"draining since 2026-01-02 04:04:05 UTC", `<td class="n">9<td class="n"><span class="down">3</span>`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// TestRoutesOfChecks: a check names the routes that it is for.
func TestRoutesOfChecks(t *testing.T) {
	var p plan.Plan
	for _, r := range []struct {
		name string
		kind plan.CheckKind
	}{{"a", plan.CheckMySQL}, {"b", plan.CheckPostgres}, {"c", plan.CheckMySQL}} {
		p.Routes = append(p.Routes, &plan.Route{
			Name: r.name, Listen: []plan.Listen{{From: 1, To: 1}}, Check: plan.Check{Kind: r.kind},
			Servers: []*plan.Server{{Name: "s", Host: "s", Port: 3306, Endpoints: []plan.Endpoint{{Addr: netip.MustParseAddr("10.0.0.5")}}}},
		})
	}
	got := map[plan.CheckKind]string{}
	for k, routes := range routesByCheck(&p) {
		got[k.Check.Kind] = strings.Join(routes, " ")
	}
	if want := map[plan.CheckKind]string{plan.CheckMySQL: "a c", plan.CheckPostgres: "b"}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
