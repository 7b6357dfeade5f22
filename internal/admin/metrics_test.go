package admin

import (
	"bytes"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"

	"midspan/internal/daemon"
	"midspan/internal/engine"
	"midspan/internal/health"
	"midspan/internal/plan"
)

// fixed is a snapshot with something of everything.
func fixed() snapshot {
	httpCheck := plan.Check{Kind: plan.CheckHTTP, Path: "/healthz", Every: plan.Duration(5 * time.Second)}
	tcpCheck := plan.Check{Kind: plan.CheckTCP, Port: 9000}
	a1, a2, a6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("2001:db8::1")
	web := &plan.Route{
		Name: "web", Engine: plan.NFT, Check: httpCheck, Listen: []plan.Listen{{From: 80, To: 80}},
		Servers: []*plan.Server{{Name: "web1:80", Host: "web1", Port: 80, Weight: 1, Endpoints: []plan.Endpoint{{Addr: a1, Up: true}, {Addr: a2}}}},
	}
	ports := &plan.Route{
		Name: "ports", Engine: plan.Relay, Check: tcpCheck, Listen: []plan.Listen{{From: 9000, To: 9010}},
		Servers: []*plan.Server{{Name: "far", Host: "far", Weight: 1, Endpoints: []plan.Endpoint{{Addr: a6}}}},
	}
	return snapshot{
		version: Version{Version: "1.2.3", Go: "go1.26"},
		plan:    &plan.Plan{Routes: []*plan.Route{web, ports}},
		dropped: 5,
		probes:  map[string]uint64{"200": 12, "503": 1, "tcp": 3},
		status: daemon.Status{
			State: daemon.Draining, NotReady: "draining", Since: time.Unix(1700000000, 5e8), Loaded: time.Unix(1700000100, 0),
			Reloads: 2, FailedLoads: 1, FailedLoad: "midspan.yaml:1:1: no",
			Engine: engine.Status{
				Connections: 8, MaxConnections: 1000, AcceptErrors: 1, Panics: 2,
				Tracking: &engine.Tracking{Entries: 1234, Max: 262144, Dropped: 6},
				Certificates: []engine.Certificate{
					{Route: "web", File: "/etc/midspan/web.pem", Expires: time.Unix(1800000000, 0)},
					{Route: "ports", File: "/etc/midspan/web.pem", Expires: time.Unix(1800000000, 0)},
				},
				Pending: []engine.Pending{{Route: "ports", Listen: "*%eth1:9000", Why: "there is no interface eth1"}},
				Consumers: []engine.ConsumerStatus{
					{Name: "databricks-prod", Active: 7, Accepted: 95, Refused: 3, BytesUp: 1e12, BytesDown: 2e12},
					{Name: "onprem"},
				},
				Routes: []engine.RouteStatus{
					{
						Name: "web", Listening: []string{"*:80"},
						Counters: engine.Counters{
							Active: 7, Accepted: 100, BytesUp: 1e12, BytesDown: 2e12,
							Ended: map[engine.Reason]uint64{engine.ClosedByClient: 90, engine.ResetByServer: 3, engine.RateLimit: 2, engine.Probe: 5},
						},
						HTTP: &engine.HTTPStatus{Requests: map[string]uint64{"200": 80, "404": 2, "none": 1}, Waits: [14]uint64{0: 70, 3: 9, 13: 1}, Waited: 21500 * time.Millisecond},
						Endpoints: []engine.EndpointStatus{
							{Server: "web1:80", Addr: netip.AddrPortFrom(a1, 80), Up: true, Active: 7, Connects: 93, Failures: 1, Ports: 70, MaxPorts: 64512},
							{Server: "web1:80", Addr: netip.AddrPortFrom(a2, 80), Failures: 4},
						},
					},
					{Name: "ports", Listening: []string{"*:9001"}, Endpoints: []engine.EndpointStatus{{Server: "far", Addr: netip.AddrPortFrom(a6, 0)}}},
					{
						Name: "orders", Listening: []string{"*:19092", "*:19100-19109"}, Counters: engine.Counters{Active: 3, Accepted: 20},
						Kafka: &engine.KafkaStatus{
							Nodes: []engine.NodeStatus{
								{ID: 0, Port: 19100, Server: "kafka1:9092", Up: true, By: "learned", Active: 2, Accepted: 9, BytesUp: 1e9, BytesDown: 3e9},
								{ID: 1, Port: 19101, Server: "kafka2:9092", By: "learned"},
								{ID: 7, Port: 19107, Accepted: 4},
							},
							Requests: []engine.APICount{
								{Key: 0, Version: 9, Count: 1000},
								{Key: 1, Version: 16, Count: 2000},
								{Key: 3, Version: 12, Count: 5},
								{Key: 3, Version: 99, Count: 1},
								{Key: 3, Version: -1, Count: 1},
								{Key: 999, Version: 0, Count: 2},
								{Key: -7, Version: 3, Count: 1},
							},
							Rewritten: 7, Dropped: 2, Unknown: 3,
						},
					},
					{Name: "gone", Removed: true, Listening: []string{}, Counters: engine.Counters{Active: 1, Accepted: 2}},
				},
			},
			Health: []health.State{
				{Target: health.Target{Addr: netip.AddrPortFrom(a1, 80), Check: httpCheck, Host: "web1"}, Up: true, Latency: 1500 * time.Microsecond, Tests: 40, Failed: 1},
				{Target: health.Target{Addr: netip.AddrPortFrom(a2, 80), Check: httpCheck, Host: "web1"}, Tests: 9, Failed: 9},
				{Target: health.Target{Addr: netip.AddrPortFrom(a6, 9000), Check: tcpCheck}, Tests: 3, Failed: 3},
			},
			Clusters: map[string]daemon.ClusterState{
				"orders": {ID: "x", Answered: time.Unix(1700000300, 0)},
				"events": {Problem: "closed"},
			},
			Unreached: map[string][]daemon.UnreachedNode{"orders": {{ID: 7, Port: 19107, At: "k.elsewhere:9092"}, {ID: 30, At: "kafka3:9092"}}},
			Names: map[string]daemon.Name{
				"web1": {Addrs: []netip.Addr{a1, a2}, Since: time.Unix(1700000200, 0)},
				"far":  {Problem: "SERVFAIL"},
			},
		},
	}
}

var update = flag.Bool("update", false, "write testdata anew")

func TestMetrics(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(newCollector(fixed))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("promlint: %s: %s", p.Metric, p.Text)
	}
	var got bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&got, f); err != nil {
			t.Fatal(err)
		}
	}
	golden := filepath.Join("testdata", "metrics.golden")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, got.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("differs from %s (-update writes it):\n%s", golden, diff(string(want), got.String()))
	}
}

// diff is the lines that only one of the two has.
func diff(want, got string) string {
	var b strings.Builder
	only := func(mark, a, b0 string) {
		for l := range strings.Lines(a) {
			if !strings.Contains("\n"+b0, "\n"+l) {
				b.WriteString(mark + l)
			}
		}
	}
	only("- ", want, got)
	only("+ ", got, want)
	return b.String()
}

// Everything that a running daemon exposes, Go's and the process's own included,
// passes the linter and the checks of a registry.
func TestMetricsOfARunningDaemon(t *testing.T) {
	r := start(t, nil)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(newCollector(r.snapshot))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) < 20 {
		t.Errorf("%d metrics", len(families))
	}
	_, body := r.ask(t, "GET", "/metrics", "")
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("promlint: %s: %s", p.Metric, p.Text)
	}
}
