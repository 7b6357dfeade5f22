package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"midspan/internal/brokers"
	"midspan/internal/config"
	"midspan/internal/engine"
	"midspan/internal/plan"
)

const ordersFile = `health: 65000
admin: off
control: off
routes:
  orders:
    mode: kafka
    listen: 19092
    to: [kafka1.corp.example:9092, 10.0.0.2:9092]
    advertise: { host: kafka.example, ports: 19100-19109 }
`

func loadPlan(t *testing.T, text string) *plan.Plan {
	t.Helper()
	f, err := config.Parse("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := plan.New(f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// listening are clusters that listen to the file's routes, with their log.
func listening(t *testing.T, text string, onChange func()) (*clusters, *lockedBuffer) {
	t.Helper()
	log := &lockedBuffer{}
	c := newClusters(slog.New(slog.NewTextHandler(log, nil)), onChange, nil)
	c.use(loadPlan(t, text))
	return c, log
}

func at(id int32, host string) engine.Node {
	return engine.Node{Route: "orders", ID: id, Host: host, Port: 9092}
}

// TestNewsAreBatched: the first news are told of at once, with what else came with
// them; what is no news is not.
func TestNewsAreBatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []time.Duration
		began := time.Now()
		c, _ := listening(t, ordersFile, func() { told = append(told, time.Since(began)) })
		for id := range int32(10) {
			c.heard(at(id, "10.0.0.2"))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(told) != 1 || told[0] > 5*time.Millisecond || len(c.known()["orders"]) != 10 {
			t.Errorf("ten nodes: told at %v, of %v", told, c.known())
		}
		for range 1000 {
			c.heard(at(3, "10.0.0.2"))
			c.heard(at(3, "elsewhere")) // within settleNode
			c.heard(engine.Node{Route: "absent", ID: 3, Host: "x", Port: 1})
			c.heard(engine.Node{Route: "orders", ID: 3})
			c.heard(at(10, "10.0.0.2")) // has no port
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(told) != 1 {
			t.Errorf("nothing new, and told at %v", told)
		}
		time.Sleep(settleNode)
		c.heard(at(3, "kafka1.corp.example"))
		time.Sleep(time.Second)
		synctest.Wait()
		if len(told) != 2 || c.known()["orders"][3].Host != "kafka1.corp.example" {
			t.Errorf("a node moved: told at %v, of %v", told, c.known())
		}
	})
}

// TestEarlierLife: what was known before the start gives way at once, however fresh
// it is.
func TestEarlierLife(t *testing.T) {
	earlier := map[string]Cluster{"orders": {Nodes: map[int32]ClusterNode{3: {Host: "10.0.0.2", Port: 9092, Since: now()}}}}
	c := newClusters(slog.New(slog.DiscardHandler), func() {}, earlier)
	c.use(loadPlan(t, ordersFile))
	for _, host := range []string{"kafka1.corp.example", "10.0.0.2"} {
		c.heard(at(3, host))
		if got := c.known()["orders"][0].Host; got != "kafka1.corp.example" {
			t.Errorf("told of %s, the node is at %s", host, got)
		}
	}
}

// TestWarnings: what is wrong with a node is said once, with what to write.
func TestWarnings(t *testing.T) {
	c, log := listening(t, ordersFile, func() {})
	for range 3 {
		c.heard(at(10, "10.0.0.2"))
		c.heard(at(5, "b5.elsewhere.example"))
		c.heard(at(6, "no host\n"))
		c.heard(at(6, strings.Repeat("x", 5000)))
		c.heard(at(7, "fd00::7"))
		c.heard(at(1, "kafka1.corp.example"))
	}
	for _, want := range []string{
		"node 10 has no port, so clients are not told of it; widen advertise.ports, or add it to advertise.node_ports",
		`clients cannot reach nodes that are where none may be learned: 5 at b5.elsewhere.example:9092; write kafka: { learn: [\"kafka1.corp.example\", \"10.0.0.2\", \"b5.elsewhere.example\"] }, or where they are in`,
		`: 7 at [fd00::7]:9092; write kafka: { learn: [\"kafka1.corp.example\", \"10.0.0.2\", \"b5.elsewhere.example\", \"fd00::7\"] }`,
		`node 6 is at \"no host\\n\" port 9092, which is no address`,
	} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%d times %s:\n%s", n, want, log.String())
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 5 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
	// A new file says it again, for all nodes at once.
	before := log.String()
	c.use(loadPlan(t, ordersFile))
	if now := strings.TrimPrefix(log.String(), before); strings.Count(now, "\n") != 1 || !strings.Contains(now, ": 5 at b5.elsewhere.example:9092, 7 at [fd00::7]:9092; write") {
		t.Errorf("after a reload:\n%s", now)
	}
	before = log.String()
	learn := `["kafka1.corp.example", "10.0.0.2", "b5.elsewhere.example", "fd00::7"]`
	if c.use(loadPlan(t, ordersFile+"    kafka: { learn: "+learn+" }\n")); log.String() != before {
		t.Errorf("with what was to be written:\n%s", strings.TrimPrefix(log.String(), before))
	}
	c.use(loadPlan(t, ordersFile))
	for i := range 10 * maxSaid {
		c.heard(at(int32(1000+i), "10.0.0.2"))
	}
	if n := strings.Count(log.String(), "\n"); n > maxSaid+10 {
		t.Errorf("%d lines", n)
	}
}

// TestLearnIsAskedAgain: what was known is looked at with the file of now, for ports
// and for hosts, after a restart and after a reload.
func TestLearnIsAskedAgain(t *testing.T) {
	servers := func(p *plan.Plan, c *clusters) string {
		var all []string
		for id, place := range places(p.WithNodes(c.known()).Routes[0]) {
			all = append(all, fmt.Sprintf("%d %s", id, place))
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	earlier := map[string]Cluster{
		"orders": {ID: "x", Nodes: map[int32]ClusterNode{
			1: {Host: "kafka1.corp.example", Port: 9092}, 2: {Host: "other.example", Port: 9092}, 70: {Host: "10.0.0.2", Port: 9092},
			3: {Host: "no host", Port: 9092}, 4: {Host: "kafka1.corp.example"}, 5: {},
		}},
		"gone": {Nodes: map[int32]ClusterNode{1: {Host: "a", Port: 1}}},
	}
	c := newClusters(slog.New(slog.DiscardHandler), func() {}, earlier)
	if got := c.known(); len(got) != 0 {
		t.Errorf("without a file: %v", got)
	}
	strict := loadPlan(t, ordersFile)
	wide := loadPlan(t, strings.Replace(ordersFile, "19109 }", "19199 }\n    kafka: { learn: [\"*.example\", 10.0.0.0/8] }", 1))
	for _, x := range []struct {
		p    *plan.Plan
		want string
	}{
		{strict, "1 kafka1.corp.example:9092"},
		{wide, "1 kafka1.corp.example:9092, 2 other.example:9092, 70 10.0.0.2:9092"},
		{strict, "1 kafka1.corp.example:9092"},
	} {
		if c.use(x.p); servers(x.p, c) != x.want {
			t.Errorf("%s, want %s", servers(x.p, c), x.want)
		}
	}
	if kept := c.kept(); len(kept) != 1 || len(kept["orders"].Nodes) != 3 || kept["orders"].ID != "x" {
		t.Errorf("kept: %+v", kept)
	}
}

// TestWanted: a node that a client wants is known by its id where `nodes` says where
// all are; else the cluster is asked.
func TestWanted(t *testing.T) {
	asked := 0
	c, _ := listening(t, ordersFile, func() {})
	c.wanted = func(string) { asked++ }
	c.heard(engine.Node{Route: "orders", ID: 3})
	if asked != 1 || len(c.known()["orders"]) != 0 {
		t.Errorf("asked %d times; known: %v", asked, c.known())
	}
	c.heard(at(3, "elsewhere.example")) // may not be learned: asking would not help
	c.heard(engine.Node{Route: "orders", ID: 3})
	if asked != 1 {
		t.Errorf("asked for a node that is known")
	}
	c, _ = listening(t, ordersFile+"    nodes: \"k{node}.corp.example:9092\"\n", func() {})
	c.wanted = func(string) { t.Error("asked, and `nodes` says where it is") }
	c.heard(engine.Node{Route: "orders", ID: 3})
	if got := c.known()["orders"]; len(got) != 1 || got[0].ID != 3 {
		t.Errorf("known: %v", got)
	}
	if len(c.kept()["orders"].Nodes) != 0 {
		t.Error("a node that nobody has seen is kept")
	}
}

// askedAt is a discovery whose brokers are a function, and when they were asked.
type askedAt struct {
	*discovery
	log   lockedBuffer
	mu    sync.Mutex
	at    []time.Duration
	news  bool // of the newest answer
	began time.Time
}

func newAskedAt(t *testing.T, answer func(round int) (brokers.Cluster, bool, error)) *askedAt {
	base := loadPlan(t, ordersFile)
	p := base.With(func(string) []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.0.0.1")} },
		func(*plan.Route, *plan.Server, netip.Addr) (bool, bool) { return true, false })
	x := &askedAt{began: time.Now()}
	x.discovery = &discovery{
		log: slog.New(slog.NewTextHandler(&x.log, nil)), plan: func() *plan.Plan { return p }, onChange: func() {},
		ask: func(context.Context, *plan.Route, bootstrap) (c brokers.Cluster, err error) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.at = append(x.at, time.Since(x.began).Round(time.Second))
			c, x.news, err = answer(len(x.at))
			return c, err
		},
		answered: func(string, brokers.Cluster) bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			return x.news
		},
	}
	x.use(base)
	t.Cleanup(x.close)
	return x
}

func (x *askedAt) rounds() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.at)
}

func (x *askedAt) times() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return fmt.Sprint(x.at)
}

// TestDiscoverAtOnce: a node that is wanted has the cluster asked at once, but not
// twice within a second, and less often if it is not there; else it is asked by the
// clock.
func TestDiscoverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newAskedAt(t, func(round int) (brokers.Cluster, bool, error) { return brokers.Cluster{}, round == 1, nil })
		defer x.close()
		synctest.Wait()
		if x.rounds() != 1 {
			t.Fatalf("%d rounds at the start", x.rounds())
		}
		for range 50 { // five seconds
			x.wanted("orders")
			x.wanted("absent")
			time.Sleep(100 * time.Millisecond)
		}
		if got := x.times(); got != "[0s 1s 2s 4s]" {
			t.Errorf("asked at %s", got)
		}
		time.Sleep(30 * time.Second) // the last wish is still there
		n := x.rounds()
		time.Sleep(10 * time.Minute)
		if more := x.rounds() - n; more < 9 || more > 12 {
			t.Errorf("asked %d times in ten minutes", more)
		}
	})
}

// TestDiscoverWithoutAccess: a cluster that wants SASL is hardly asked, and it is
// said once.
func TestDiscoverWithoutAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newAskedAt(t, func(int) (brokers.Cluster, bool, error) {
			return brokers.Cluster{}, false, fmt.Errorf("10.0.0.1:9092: %w", &brokers.Error{Kind: brokers.WantsSASL, Step: "Metadata", Text: "closed"})
		})
		defer x.close()
		for range 24 * 60 {
			x.wanted("orders")
			time.Sleep(time.Minute)
		}
		if n := x.rounds(); n > 40 {
			t.Errorf("asked %d times in a day", n)
		}
		if s := x.log.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "the cluster wants SASL, so its nodes are known from clients' answers and `nodes` only\" route=orders") {
			t.Errorf("said:\n%s", s)
		}
		if s := x.states()["orders"]; s.Kind != brokers.WantsSASL || s.Problem == "" {
			t.Errorf("%+v", s)
		}
	})
}

// TestDiscoverFails: every bootstrap server is asked; what is wrong is said once, and
// that it is over too; a reload asks at once and says nothing again.
func TestDiscoverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newAskedAt(t, func(n int) (brokers.Cluster, bool, error) {
			if n <= 10 {
				return brokers.Cluster{}, false, errors.New("connection refused")
			}
			return brokers.Cluster{ID: "x"}, false, nil
		})
		defer x.close()
		time.Sleep(2500 * time.Millisecond) // rounds at 0, 1
		if n := x.rounds(); n != 4 {
			t.Errorf("%d brokers asked, want both in both rounds", n)
		}
		x.use(loadPlan(t, ordersFile))
		time.Sleep(time.Minute)
		s := x.log.String()
		if strings.Count(s, "\n") != 2 || !strings.Contains(s, "cannot ask the cluster for its nodes") || !strings.Contains(s, "the cluster says which nodes it has") {
			t.Errorf("said:\n%s", s)
		}
		if s := x.states()["orders"]; s.Problem != "" || s.ID != "x" || s.Answered.IsZero() {
			t.Errorf("%+v", s)
		}
		x.use(loadPlan(t, ordersFile+"    kafka: { discover: off }\n"))
		n := x.rounds()
		time.Sleep(time.Hour)
		if x.rounds() != n || len(x.states()) != 0 {
			t.Error("asked, and the file says off")
		}
	})
}
