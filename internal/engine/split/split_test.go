package split

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"midspan/internal/config"
	"midspan/internal/engine"
	"midspan/internal/plan"
)

// fake is an engine that writes down what it is told. It forwards nothing: here
// it is only about who is told what, and when.
type fake struct {
	name   string
	told   *[]string
	routes []string
	fails  error
	closed bool
}

func (f *fake) Apply(_ context.Context, p *plan.Plan) (engine.Change, error) {
	var names []string
	for _, r := range p.Routes {
		names = append(names, r.Name)
	}
	*f.told = append(*f.told, f.name+": "+strings.Join(names, " "))
	if f.fails != nil {
		return engine.Change{}, f.fails
	}
	var c engine.Change
	for _, n := range names {
		if !slices.Contains(f.routes, n) {
			c.Added = append(c.Added, n+" *:1")
		}
	}
	for _, n := range f.routes {
		if !slices.Contains(names, n) {
			c.Removed = append(c.Removed, n+" *:1")
		}
	}
	f.routes = names
	return c, nil
}

func (f *fake) Status() engine.Status {
	s := engine.Status{Connections: len(f.routes), MaxConnections: 100}
	if f.name == "relay" { // the kernel knows no consumers
		s.Consumers = []engine.ConsumerStatus{{Name: "onprem", Active: 2}}
	}
	for _, r := range f.routes {
		s.Routes = append(s.Routes, engine.RouteStatus{Name: r})
	}
	return s
}

func (f *fake) Conns() []engine.Conn { return []engine.Conn{{ID: f.name}} }
func (f *fake) Kill(id string) bool  { return id == f.name }
func (f *fake) Close() error         { f.closed = true; return nil }

type stage struct {
	*testing.T
	told       []string
	relay, nft *fake
	made       int
	inherited  bool
	engine     *Engine
}

func newStage(t *testing.T) *stage {
	s := &stage{T: t}
	s.relay, s.nft = &fake{name: "relay", told: &s.told}, &fake{name: "nft", told: &s.told}
	s.engine = New(s.relay, func(Ours) (engine.Engine, error) {
		s.made++
		return s.nft, nil
	}, func() bool { return s.inherited })
	return s
}

// planOf is the plan of routes "name:engine", in order.
func planOf(t *testing.T, routes ...string) *plan.Plan {
	t.Helper()
	text := "routes:\n"
	for i, r := range routes {
		name, kind, _ := strings.Cut(r, ":")
		text += "  " + name + ": {listen: " + string(rune('1'+i)) + "000, to: 10.0.0.1:80, engine: " + kind + "}\n"
	}
	f, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := plan.New(f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *stage) apply(want []string, routes ...string) engine.Change {
	s.Helper()
	s.told = nil
	c, err := s.engine.Apply(context.Background(), planOf(s.T, routes...))
	if err != nil {
		s.Fatal(err)
	}
	if !slices.Equal(s.told, want) {
		s.Errorf("%v: the engines are told %q, want %q", routes, s.told, want)
	}
	return c
}

// TestOrder: no port is ever without an engine.
func TestOrder(t *testing.T) {
	s := newStage(t)
	s.apply([]string{"relay: a b"}, "a:relay", "b:relay")
	if s.made != 0 {
		t.Error("the kernel's engine was made though no route wants it")
	}
	c := s.apply([]string{"relay: a b", "nft: b", "relay: a"}, "a:relay", "b:nft")
	if !c.Empty() {
		t.Errorf("a route that changes its engine changes %+v", c)
	}
	c = s.apply([]string{"relay: a b", "nft: "}, "a:relay", "b:relay")
	if !c.Empty() || s.made != 1 {
		t.Errorf("back again changes %+v; made %d times", c, s.made)
	}
	c = s.apply([]string{"relay: ", "nft: c"}, "c:nft")
	if !slices.Equal(c.Added, []string{"c *:1"}) || len(c.Removed) != 2 {
		t.Errorf("the change is %+v", c)
	}
}

// TestInherited: what the kernel still does for an earlier process is ended.
func TestInherited(t *testing.T) {
	s := newStage(t)
	s.inherited = true
	s.apply([]string{"relay: a", "nft: "}, "a:relay")
}

// TestRollback: what the kernel's engine refuses, the relay has not done either.
func TestRollback(t *testing.T) {
	s := newStage(t)
	s.apply([]string{"relay: a"}, "a:relay")
	s.nft.fails = errors.New("no")
	s.told = nil
	if _, err := s.engine.Apply(context.Background(), planOf(t, "x:relay", "a:nft")); !errors.Is(err, s.nft.fails) {
		t.Errorf("the error is %v", err)
	}
	if want := []string{"relay: x a", "nft: a", "relay: a"}; !slices.Equal(s.told, want) {
		t.Errorf("the engines are told %q, want %q", s.told, want)
	}
	s.nft.fails = nil
	s.apply([]string{"relay: a", "nft: b"}, "a:relay", "b:nft")
}

// TestBothAreSeen: status, connections and kill are those of both.
func TestBothAreSeen(t *testing.T) {
	s := newStage(t)
	s.apply([]string{"relay: a c", "nft: b"}, "a:relay", "b:nft", "c:relay")
	status := s.engine.Status()
	var names []string
	for _, r := range status.Routes {
		names = append(names, r.Name)
	}
	if strings.Join(names, " ") != "a b c" || status.Connections != 3 {
		t.Errorf("status is %+v", status)
	}
	if len(status.Consumers) != 1 || status.Consumers[0].Active != 2 {
		t.Errorf("consumers are %+v, want the relay's", status.Consumers)
	}
	if n := len(s.engine.Conns()); n != 2 {
		t.Errorf("%d connections", n)
	}
	if !s.engine.Kill("nft") || !s.engine.Kill("relay") || s.engine.Kill("neither") {
		t.Error("Kill does not find what is there")
	}
	if err := s.engine.Close(); err != nil || !s.relay.closed || !s.nft.closed {
		t.Error("Close leaves one open", err)
	}
}

// TestOurs: the kernel's engine may take a port that the relay has.
func TestOurs(t *testing.T) {
	s := newStage(t)
	var ours Ours
	s.engine = New(s.relay, func(o Ours) (engine.Engine, error) {
		ours = o
		return s.nft, nil
	}, func() bool { return false })
	s.apply([]string{"relay: a"}, "a:relay")
	s.apply([]string{"relay: a", "nft: b"}, "a:relay", "b:nft")
	if !ours(plan.TCP, plan.Listen{From: 1000, To: 1000}) || ours(plan.UDP, plan.Listen{From: 1000, To: 1000}) || ours(plan.TCP, plan.Listen{From: 2000, To: 2000}) {
		t.Error("what is ours is not told right")
	}
}
