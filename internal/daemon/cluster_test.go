package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"midspan/internal/brokers"
	"midspan/internal/plan"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func (c *Cluster) text() string {
	var all []string
	for _, id := range slices.Sorted(maps.Keys(c.Nodes)) {
		all = append(all, fmt.Sprintf("%d=%s:%d", id, c.Nodes[id].Host, c.Nodes[id].Port))
	}
	return strings.Join(all, " ")
}

// TestHear: what of the news about nodes is news.
func TestHear(t *testing.T) {
	c := &Cluster{Nodes: map[int32]ClusterNode{}}
	for i, x := range []struct {
		id    int32
		host  string
		after time.Duration // noon
		news  bool
		want  string
	}{
		{1, "a", 0, true, "1=a:9092"},
		{1, "a", 0, false, "1=a:9092"},
		{1, "", 0, false, "1=a:9092"},                         // a client wants what is known
		{2, "", 0, true, "1=a:9092 2=:9092"},                  // and what is not
		{2, "", time.Second, false, "1=a:9092 2=:9092"},       // again
		{2, "b", time.Second, true, "1=a:9092 2=b:9092"},      // now it is known where that is
		{1, "c", 9 * time.Second, false, "1=a:9092 2=b:9092"}, // brokers disagree
		{1, "c", 10 * time.Second, true, "1=c:9092 2=b:9092"}, // or it has moved
		{1, "a", 19 * time.Second, false, "1=c:9092 2=b:9092"},
		{1, "a", -time.Hour, true, "1=a:9092 2=b:9092"}, // the clock was set back
	} {
		if news := c.hear(x.id, x.host, 9092, noon.Add(x.after)); news != x.news || c.text() != x.want {
			t.Errorf("%d: news %t, %s; want %t, %s", i, news, c.text(), x.news, x.want)
		}
	}
}

// TestAnswer: a node that the cluster does not name is kept for a day, from the first
// answer without it; one of another cluster is not.
func TestAnswer(t *testing.T) {
	c := &Cluster{Nodes: map[int32]ClusterNode{}}
	valid := func(n brokers.Node) bool { return n.ID < 64 }
	for i, x := range []struct {
		id            string
		nodes         string
		after         time.Duration // noon
		news, another bool
		want          string
	}{
		{"x", "1 2 64", 0, true, false, "1=k1:9092 2=k2:9092"},
		{"x", "1 2", time.Minute, false, false, "1=k1:9092 2=k2:9092"},
		{"x", "1", time.Hour, false, false, "1=k1:9092 2=k2:9092"},
		{"x", "1", 24 * time.Hour, false, false, "1=k1:9092 2=k2:9092"},
		{"x", "1 2", 24*time.Hour + time.Minute, false, false, "1=k1:9092 2=k2:9092"}, // back
		{"x", "1", 24*time.Hour + 2*time.Minute, false, false, "1=k1:9092 2=k2:9092"},
		{"x", "", 48 * time.Hour, false, false, "1=k1:9092 2=k2:9092"}, // a broker that starts knows of none
		{"x", "1", 48*time.Hour + 2*time.Minute, true, false, "1=k1:9092"},
		{"", "1", 49 * time.Hour, false, false, "1=k1:9092"}, // a broker that does not say
		{"y", "3", 50 * time.Hour, true, true, "3=k3:9092"},
		{"y", "3", 51 * time.Hour, false, false, "3=k3:9092"},
	} {
		a := brokers.Cluster{ID: x.id}
		for id := range strings.FieldsSeq(x.nodes) {
			n := brokers.Node{Host: "k" + id, Port: 9092}
			fmt.Sscan(id, &n.ID)
			a.Nodes = append(a.Nodes, n)
		}
		news, another := c.answer(a, valid, noon.Add(x.after))
		if news != x.news || another != x.another || c.text() != x.want {
			t.Errorf("%d: news %t, another %t, %s; want %t, %t, %s", i, news, another, c.text(), x.news, x.another, x.want)
		}
	}
}

// TestAnswerClock: a clock that was set back makes no node stay for longer, nor go
// at once.
func TestAnswerClock(t *testing.T) {
	c := &Cluster{Nodes: map[int32]ClusterNode{1: {Host: "a", Port: 1, Since: noon, Gone: noon.Add(1000 * time.Hour)}}}
	c.answer(brokers.Cluster{}, nil, noon)
	if n := c.Nodes[1]; n.Gone != noon {
		t.Errorf("gone since %s", n.Gone)
	}
	if c.answer(brokers.Cluster{}, nil, noon.Add(forgetAfter)); len(c.Nodes) != 0 {
		t.Error("not forgotten")
	}
}

// TestPace: rounds that bring nothing come less often when clients want them, those
// without an answer more often than by the clock, and those without access hardly.
func TestPace(t *testing.T) {
	for _, x := range []struct {
		outcomes      []outcome
		next, soonest time.Duration
	}{
		{[]outcome{gotNews}, time.Minute, time.Second},
		{[]outcome{gotNothingNew}, time.Minute, time.Second},
		{[]outcome{gotNews, gotNothingNew, gotNothingNew, gotNothingNew}, time.Minute, 4 * time.Second},
		{slices.Repeat([]outcome{gotNothingNew}, 100), time.Minute, maxGap},
		{[]outcome{gotNothingNew, gotNothingNew, gotNews}, time.Minute, time.Second},
		{[]outcome{gotNoAnswer}, time.Second, time.Second},
		{[]outcome{gotNoAnswer, gotNoAnswer, gotNoAnswer}, 4 * time.Second, 4 * time.Second},
		{slices.Repeat([]outcome{gotNoAnswer}, 100), time.Minute, maxGap},
		{[]outcome{gotNoAnswer, gotNoAnswer, gotNews, gotNoAnswer}, time.Second, time.Second},
		{[]outcome{gotNoAccess}, time.Minute, time.Minute},
		{[]outcome{gotNoAccess, gotNoAccess}, 2 * time.Minute, 2 * time.Minute},
		{slices.Repeat([]outcome{gotNoAccess}, 100), time.Hour, time.Hour},
		// A cluster that was down for long, of which a broker is still starting.
		{append(slices.Repeat([]outcome{gotNoAnswer}, 100), gotNoAccess), time.Minute, time.Minute},
		{append(slices.Repeat([]outcome{gotNoAccess}, 100), gotNoAnswer), time.Second, time.Second},
		{append(slices.Repeat([]outcome{gotNoAccess}, 100), gotNothingNew, gotNoAccess), time.Minute, time.Minute},
	} {
		p := pace{every: time.Minute}
		var next, soonest time.Duration
		for _, o := range x.outcomes {
			next, soonest = p.after(o)
		}
		if next != x.next || soonest != x.soonest {
			t.Errorf("%v: %s, %s; want %s, %s", x.outcomes, next, soonest, x.next, x.soonest)
		}
	}
	if a, b := jitter(time.Minute, 0), jitter(time.Minute, 0.999); a != 54*time.Second || b < 65*time.Second || b > 66*time.Second {
		t.Errorf("jitter from %s to %s", a, b)
	}
}

// TestBootstraps: only the route's own servers are asked, those that are up first,
// and not always the same.
func TestBootstraps(t *testing.T) {
	at := func(host string, up, last bool) *plan.Server {
		return &plan.Server{Name: host, Host: host, Port: 9092, Endpoints: []plan.Endpoint{{Addr: netip.MustParseAddr(host), Up: up, LastResort: last}}}
	}
	r := &plan.Route{
		Listen: []plan.Listen{{From: 1, To: 1}}, Default: []int{0, 1, 2, 3},
		Servers: []*plan.Server{at("10.0.0.0", false, false), at("10.0.0.1", true, false), at("10.0.0.2", true, true), at("10.0.0.3", true, false), at("10.0.0.4", true, false)},
	}
	for turn, want := range []string{"1 3 0 2", "1 3 2 0", "3 1 2 0", "3 1 0 2", "1 3 0 2"} {
		var got []string
		for _, b := range bootstraps(r, turn) {
			got = append(got, b.host[len("10.0.0."):])
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("turn %d: %s, want %s", turn, s, want)
		}
	}
	if got := bootstraps(&plan.Route{Default: []int{0}, Servers: []*plan.Server{{Name: "a"}}}, 7); len(got) != 0 {
		t.Errorf("without an address: %v", got)
	}
}

// TestAnswerOtherID: where a broker has another ID than before, the old one leads
// nowhere at once. It would lead to the wrong node.
func TestAnswerOtherID(t *testing.T) {
	c := &Cluster{Nodes: map[int32]ClusterNode{}}
	valid := func(brokers.Node) bool { return true }
	c.answer(brokers.Cluster{Nodes: []brokers.Node{{ID: 1, Host: "a", Port: 9092}, {ID: 2, Host: "b", Port: 9092}}}, valid, noon)
	news, _ := c.answer(brokers.Cluster{Nodes: []brokers.Node{{ID: 3, Host: "a", Port: 9092}}}, valid, noon.Add(time.Minute))
	if !news || c.text() != "2=b:9092 3=a:9092" {
		t.Errorf("news %t, %s", news, c.text())
	}
}

// TestHearOtherID: the same from clients' answers alone, as behind SASL. Nodes that are
// said to be at one place all the time make no news.
func TestHearOtherID(t *testing.T) {
	c := &Cluster{Nodes: map[int32]ClusterNode{}}
	for i, x := range []struct {
		id    int32
		host  string
		after time.Duration // noon
		news  bool
		want  string
	}{
		{1, "a", 0, true, "1=a:9092"},
		{4, "a", time.Minute, true, "4=a:9092"},
		{1, "a", time.Minute + time.Second, true, "1=a:9092 4=a:9092"}, // an older broker's word, or two at one place
		{4, "a", time.Hour, false, "1=a:9092 4=a:9092"},
		{1, "a", time.Hour, false, "1=a:9092 4=a:9092"},
		{5, "", time.Hour, true, "1=a:9092 4=a:9092 5=:9092"},
		{6, "", 2 * time.Hour, true, "1=a:9092 4=a:9092 5=:9092 6=:9092"},
		{4, "b", 3 * time.Hour, true, "1=a:9092 4=b:9092 5=:9092 6=:9092"},
	} {
		if news := c.hear(x.id, x.host, 9092, noon.Add(x.after)); news != x.news || c.text() != x.want {
			t.Errorf("%d: news %t, %s; want %t, %s", i, news, c.text(), x.news, x.want)
		}
	}
}
