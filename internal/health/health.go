// Package health tests servers and says which endpoints are up. Two kinds of
// evidence count: active tests (a connect, or the opening of a protocol) at the
// pace of the endpoint's check, and what the data path reports of its own
// connects. Results count only in a row: a server is down after `fall` failures
// without a success in between, and up again after `rise` passed tests.
//
// A test speaks the protocol as far as it takes to know that the server can be
// used, and ends the connection so that the server neither logs an error nor
// counts one against this host, where the protocol has such a way. It logs in
// nowhere: a server that asks who we are, or says that we may not, is up.
//
// A new endpoint is up, but on trial: its first test runs at once, and if that
// fails it is down, so that a start beside a dead server does not serve errors
// for fall × every. An endpoint without an active test is down for a cool-down
// once connects to it have failed, and then on trial as well.
//
// Limits: an http test is HTTP/1.1; of an answer 64 KiB are read at most. At
// most 64 tests run at once, so that with many endpoints that do not answer each
// is tested less often than its check asks for; nothing is kept on disk, so
// after a restart every endpoint is new.
package health

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"midspan/internal/plan"
)

// maxProbes bounds the tests under way, so that a thousand endpoints behind a
// dead link do not hold a thousand sockets.
const maxProbes = 64

// Target is one endpoint under test. Targets with the same Addr, Check and Path
// share one prober, whatever their Host, unless the test has a use for it.
type Target struct {
	// Addr is what the data path connects to. A test goes to Check.Port of the
	// same address where that is set.
	Addr  netip.AddrPort `json:"addr"`
	Check plan.Check     `json:"check"`
	Host  string         `json:"host,omitempty"` // the server's name (see plan.Server.CertName), for tests that say it
	Path  Path           `json:"-"`
}

// Path is what the data path does after the TCP connect. A failure there counts
// only for targets that do the same: a wrong name in one route's TLS settings
// says nothing about a route that has others.
type Path struct {
	SendProxy plan.SendProxy
	TLS       plan.UpstreamTLS
	H2        bool // the server must offer HTTP/2
}

// TargetOf is the target that the address a of the server s of r is.
func TargetOf(r *plan.Route, s *plan.Server, a netip.Addr) Target {
	p := Path{SendProxy: r.SendProxy, TLS: r.UpstreamTLS}
	p.H2 = p.TLS.On && r.HTTP != nil && r.HTTP.H2
	return Target{Addr: netip.AddrPortFrom(a, r.MainPort(s)), Check: r.Check, Host: s.CertName(), Path: p}
}

// Options say how a Monitor works. The zero value does.
type Options struct {
	// Log gets one line for each endpoint that goes down or comes up. Nil
	// discards.
	Log *slog.Logger

	// OnChange is called after a verdict changed. Several changes may share one
	// call, and calls never overlap. It runs on a goroutine of the monitor's and
	// must not call Close.
	OnChange func()

	// Dial makes the connections of the tests; nil means a net.Dialer. It must
	// return when its context ends.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// State is what is known of one target.
type State struct {
	Target    Target        `json:"target"` // without Host where the test has no use for it
	Up        bool          `json:"up"`
	Trial     bool          `json:"trial,omitempty"`      // one failure is enough to bring it down
	Checked   bool          `json:"checked"`              // an active test has had its say
	Since     time.Time     `json:"since"`                // of Up
	Failures  int           `json:"failures"`             // in a row until now, counted while up
	LastError string        `json:"last_error,omitempty"` // of the newest result, or of what brought it down
	LastCheck time.Time     `json:"last_check,omitzero"`  // start of the newest active test
	Latency   time.Duration `json:"latency_ns"`           // of the newest active test that passed
	Tests     uint64        `json:"tests"`                // active ones that ended
	Failed    uint64        `json:"failed"`               // of Tests
}

// probe is one active test: how long the answer took, or why it failed.
type probe func(ctx context.Context, t Target) (time.Duration, error)

// Monitor watches a set of targets until it is closed. Its methods may be called
// from any goroutine.
type Monitor struct {
	log    *slog.Logger
	probe  probe         // tests replace it
	slots  chan struct{} // one token for each test under way
	change chan struct{} // one token: OnChange is due

	ctx  context.Context // ends on Close
	stop context.CancelFunc
	wg   sync.WaitGroup // every goroutine of the monitor's

	mu      sync.Mutex // guards what follows, and the entries
	closed  bool
	entries map[Target]*entry // by key
	byAddr  map[netip.AddrPort][]*entry
}

// New returns a Monitor that watches nothing yet. It must be closed.
func New(o Options) *Monitor {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	return start(o, (&wire{dial: o.Dial, linger: linger}).probe)
}

// start returns a Monitor that tests with p.
func start(o Options, p probe) *Monitor {
	m := &Monitor{
		log:     o.Log,
		probe:   p,
		slots:   make(chan struct{}, maxProbes),
		change:  make(chan struct{}, 1),
		entries: map[Target]*entry{},
		byAddr:  map[netip.AddrPort][]*entry{},
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	if o.OnChange != nil {
		m.wg.Go(func() { m.notify(o.OnChange) })
	}
	return m
}

// Watch makes targets the whole set under test. Those known keep their state,
// new ones start up and on trial, missing ones are forgotten.
func (m *Monitor) Watch(targets []Target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	wanted := make(map[Target]bool, len(targets))
	for _, t := range targets {
		wanted[t.Key()] = true
	}
	for k, e := range m.entries {
		if !wanted[k] {
			e.forget()
			delete(m.entries, k)
		}
	}
	for k := range wanted {
		if m.entries[k] == nil {
			m.entries[k] = m.enter(k)
		}
	}
	clear(m.byAddr)
	for k, e := range m.entries {
		m.byAddr[k.Addr] = append(m.byAddr[k.Addr], e)
	}
}

// Up tells whether new connections should go to t. A target that is not watched
// is up: nothing speaks against it.
func (m *Monitor) Up(t Target) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[t.Key()]
	return e == nil || e.verdict.up
}

// State is what is known of every target, by address.
func (m *Monitor) State() []State {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]State, 0, len(m.entries))
	for _, e := range m.entries {
		all = append(all, e.state())
	}
	slices.SortFunc(all, func(a, b State) int { return compare(a.Target, b.Target) })
	return all
}

// Close ends all tests and returns when every goroutine of the monitor's has
// ended. The newest state stays readable.
func (m *Monitor) Close() {
	m.mu.Lock()
	m.closed = true
	for _, e := range m.entries {
		e.forget()
	}
	m.mu.Unlock()
	m.stop()
	m.wg.Wait()
}

func (m *Monitor) notify(onChange func()) {
	for {
		select {
		case <-m.change:
			onChange()
		case <-m.ctx.Done():
			return
		}
	}
}

// Key is what targets have in common that share a prober: t without what the
// test has no use for.
func (t Target) Key() Target {
	t.Addr = unmap(t.Addr)
	if !t.saysHost() {
		t.Host = ""
	}
	return t
}

// saysHost tells whether the test, or the data path, says the server's name to
// it: two names for one address are then two tests.
func (t Target) saysHost() bool {
	c := t.Check
	if t.Path.TLS.On && t.Path.TLS.Name == "" {
		return true
	}
	named := c.Kind.Named() && c.Host != ""
	switch {
	case c.Kind == plan.CheckHTTP && !named, c.Kind == plan.CheckPostgres && !c.TLS.On:
		return true
	case c.Kind == plan.CheckTLS, c.TLS.On:
		return c.TLS.Name == "" && !(c.Kind == plan.CheckTLS && named)
	}
	return false
}

// unmap makes ::ffff:10.0.0.5 the same as 10.0.0.5: a dual-stack socket knows
// its peers by the longer form.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func compare(a, b Target) int {
	if c := a.Addr.Compare(b.Addr); c != 0 {
		return c
	}
	if c := strings.Compare(string(a.Check.Kind), string(b.Check.Kind)); c != 0 {
		return c
	}
	if c := strings.Compare(a.Host+a.Check.Host+a.Check.Path, b.Host+b.Check.Host+b.Check.Path); c != 0 {
		return c
	}
	if c := int(a.Check.Port) - int(b.Check.Port); c != 0 {
		return c
	}
	return strings.Compare(fmt.Sprint(a.Check, a.Path), fmt.Sprint(b.Check, b.Path))
}
