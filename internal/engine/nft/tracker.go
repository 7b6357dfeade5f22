package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/conntrack"
	"midspan/internal/engine"
	"midspan/internal/plan"
)

// tracker turns what the kernel tells of connections into records, and counts.
type tracker struct {
	flows *conntrack.Conn
	hooks engine.Hooks

	mu     sync.Mutex // guards what follows
	routes map[uint16]*route
	lives  map[conntrack.Tuple]*life         // not ended, by the client's side; only while records are wanted
	dooms  map[conntrack.Tuple]engine.Reason // why we have cut connections that are no lives
	active int
	logs   bool
}

// route is what is known of a route, also when it is in the plan no more.
type route struct {
	name      string
	plan      *plan.Route // nil: removed
	active    int
	ended     map[engine.Reason]uint64
	up, down  uint64    // bytes of connections that the kernel has forgotten
	most      [2]uint64 // the highest sums that were shown: a counter never falls
	endpoints map[netip.AddrPort]*endpoint
}

// endpoint is one address and port of a server.
type endpoint struct {
	server   string
	active   int
	failures uint64
	lastErr  string
	failing  bool // the last connect failed, and that was told
}

// life is a connection that has not ended.
type life struct {
	id        uint32
	route     *route
	start     time.Time
	connected time.Time // zero: not yet
	endpoint  netip.AddrPort
	server    string
	last      conntrack.State // the furthest it got
	doomed    engine.Reason   // why we have cut it
}

func newTracker(flows *conntrack.Conn, hooks engine.Hooks) *tracker {
	return &tracker{flows: flows, hooks: hooks, routes: map[uint16]*route{}, lives: map[conntrack.Tuple]*life{}, dooms: map[conntrack.Tuple]engine.Reason{}}
}

// use makes p the plan whose routes and servers are named.
func (t *tracker) use(p *plan.Plan, numbers map[string]uint16, logs bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.logs = logs
	for _, r := range t.routes {
		r.plan = nil
	}
	for _, r := range p.Routes {
		x := t.route(numbers[r.Name], r.Name)
		x.plan = r
		for _, s := range r.Servers {
			for _, e := range s.Endpoints {
				// With port 0 each of the listener's ports is an endpoint of its own
				// to connection tracking, but one to us.
				x.endpoint(netip.AddrPortFrom(e.Addr, s.Port)).server = s.Name
			}
		}
		x.forget()
	}
}

// forget drops the endpoints that are of the past: names change their addresses
// for as long as the daemon lives.
func (r *route) forget() {
	here := map[netip.AddrPort]bool{}
	for _, s := range r.plan.Servers {
		for _, e := range s.Endpoints {
			here[netip.AddrPortFrom(e.Addr, s.Port)] = true
		}
	}
	maps.DeleteFunc(r.endpoints, func(a netip.AddrPort, e *endpoint) bool { return !here[a] && e.active == 0 })
}

// name is the name of a route that only its connections know.
func (t *tracker) name(number uint16, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.route(number, name)
}

func (t *tracker) route(number uint16, name string) *route {
	x := t.routes[number]
	if x == nil {
		x = &route{name: name, ended: map[engine.Reason]uint64{}, endpoints: map[netip.AddrPort]*endpoint{}}
		t.routes[number] = x
	}
	if name != "" {
		x.name = name
	}
	return x
}

func (r *route) endpoint(a netip.AddrPort) *endpoint {
	if e := r.endpoints[a]; e != nil {
		return e
	}
	if e := r.endpoints[netip.AddrPortFrom(a.Addr(), 0)]; e != nil {
		return e
	}
	e := &endpoint{}
	r.endpoints[a] = e
	return e
}

// over tells whether both ends are done with a connection that is still tracked. The
// kernel takes a FIN that is sent again for the other side's, so the marks are asked
// too; connections from this host itself have none.
func over(f *conntrack.Flow) bool {
	ended := f.Mark&markBothFin != 0 || f.Mark&(markClientFin|markServerFin) == 0
	return f.State == conntrack.TimeWait && ended || f.State == conntrack.Close || f.Mark&(markClientRst|markServerRst) != 0
}

// event takes in what the kernel tells of a connection.
func (t *tracker) event(ev conntrack.Event, f *conntrack.Flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.Status != 0 && f.Status&conntrack.DstNAT == 0 {
		return // somebody else's mark
	}
	r := t.route(routeOf(f.Mark), "")
	l := t.lives[f.Orig]
	if l != nil && l.id != f.ID {
		if ev == conntrack.Destroy {
			l = nil // the end of an older one with the same addresses
		} else {
			// The kernel has made a new one in its place.
			t.finish(l, &conntrack.Flow{ID: l.id, Orig: f.Orig, Reply: conntrack.Tuple{Src: l.endpoint}}, engine.LostClient)
			l = nil
		}
	}
	if ev == conntrack.Destroy {
		r.up += f.Up.Bytes
		r.down += f.Down.Bytes
	}
	switch {
	case l == nil && (ev == conntrack.Destroy || over(f) || !t.logs):
		if ev == conntrack.Destroy && !t.logs {
			t.quiet(r, f)
		}
		return
	case l == nil:
		l = t.begin(r, f)
	}
	t.advance(l, ev, f)
}

// quiet counts the end of a connection whose life was not followed.
func (t *tracker) quiet(r *route, f *conntrack.Flow) {
	why, doomed := t.dooms[f.Orig]
	if doomed {
		delete(t.dooms, f.Orig)
	} else {
		// What is not assured had no third packet from the client.
		why = reasonOf(f, f.Status&conntrack.Assured != 0, f.State)
	}
	r.ended[why]++
	switch {
	case why == engine.ConnectFailed:
		t.failed(r, f)
	case f.Status&conntrack.Assured != 0:
		t.worked(r, f)
	}
}

func (t *tracker) begin(r *route, f *conntrack.Flow) *life {
	e := r.endpoint(f.Reply.Src)
	l := &life{id: f.ID, route: r, start: time.Now(), endpoint: f.Reply.Src, server: e.server}
	if !f.Start.IsZero() {
		l.start = f.Start
	}
	t.lives[f.Orig] = l
	t.active++
	r.active++
	e.active++
	return l
}

// adopt takes over a connection that an earlier engine has told of.
func (t *tracker) adopt(f *conntrack.Flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.logs || over(f) || t.lives[f.Orig] != nil {
		return
	}
	l := t.begin(t.route(routeOf(f.Mark), ""), f)
	if f.State >= conntrack.Established && f.State != conntrack.SynSent2 {
		l.connected = l.start.Add(1) // when exactly is not known
	}
}

// advance moves a connection on in its life.
func (t *tracker) advance(l *life, ev conntrack.Event, f *conntrack.Flow) {
	established := f.State >= conntrack.Established && f.State <= conntrack.TimeWait
	if f.Orig.Proto != unix.IPPROTO_TCP {
		established = f.Status&conntrack.SeenReply != 0
	}
	if l.last = max(l.last, f.State); f.State == 0 {
		f.State = l.last // the last event may not say
	}
	if established && l.connected.IsZero() {
		l.connected = time.Now()
		t.worked(l.route, f)
		if t.wants(false) {
			t.hooks.Record(t.record(l, f))
		}
	}
	if ev == conntrack.Destroy || over(f) {
		why := l.doomed
		if why == "" {
			why = reasonOf(f, !l.connected.IsZero(), f.State)
		}
		t.finish(l, f, why)
	}
}

// reasonOf is why a connection ended, from what went over the wire.
func reasonOf(f *conntrack.Flow, connected bool, last conntrack.State) engine.Reason {
	switch {
	case f.Orig.Proto != unix.IPPROTO_TCP:
		return engine.IdleTimeout
	case f.Mark&markClientRst != 0:
		return engine.ResetByClient
	case connected && (last == conntrack.Close || f.Mark&markServerRst != 0):
		return engine.ResetByServer
	case !connected && last == conntrack.SynRecv:
		return engine.LostClient // the server has answered, and the client not
	case !connected:
		return engine.ConnectFailed
	case (last == conntrack.TimeWait || last == conntrack.LastAck) && serverFirst(f):
		return engine.ClosedByServer
	case last == conntrack.TimeWait || last == conntrack.LastAck:
		return engine.ClosedByClient
	case last == conntrack.FinWait || last == conntrack.CloseWait:
		return engine.FinTimeout
	}
	return engine.IdleTimeout
}

// serverFirst tells whether the server was the first to end its side. The mark
// says so also in the last event of a connection; it is not made for those from
// this host itself.
func serverFirst(f *conntrack.Flow) bool {
	return f.Mark&markServerFin != 0 || f.ServerFin && !f.ClientFin
}

// finish ends a connection's life.
func (t *tracker) finish(l *life, f *conntrack.Flow, why engine.Reason) {
	delete(t.lives, f.Orig)
	e := l.route.endpoint(l.endpoint)
	if t.wants(true) {
		// Only the last event has the counts; until then they are asked for.
		if f.Up.Packets == 0 {
			if now, err := t.flows.Get(f.Orig); err == nil && now.ID == l.id {
				f.Up, f.Down = now.Up, now.Down
			}
		}
		rec := t.record(l, f)
		rec.End, rec.Reason = time.Now(), why
		if l.connected.IsZero() {
			rec.Err = connectError(why, f)
		}
		t.hooks.Record(rec)
	}
	t.active--
	l.route.active--
	e.active--
	l.route.ended[why]++
	if why == engine.ConnectFailed {
		t.failed(l.route, f)
	}
}

func connectError(why engine.Reason, f *conntrack.Flow) string {
	switch {
	case why != engine.ConnectFailed:
		return ""
	case refused(f):
		return errRefused.Error()
	}
	return errNoAnswer.Error()
}

// refused tells whether a connect that failed got an answer.
func refused(f *conntrack.Flow) bool {
	return f.State == conntrack.Close || f.Mark&markServerRst != 0
}

var (
	errRefused  = errors.New("connection refused")
	errNoAnswer = errors.New("no answer")
)

// failed tells of a connect that failed.
func (t *tracker) failed(r *route, f *conntrack.Flow) {
	e := r.endpoint(f.Reply.Src)
	err := errNoAnswer
	if refused(f) {
		err = errRefused
	}
	e.failures++
	e.failing, e.lastErr = true, err.Error()
	if t.hooks.Dial != nil {
		t.hooks.Dial(engine.Dial{Route: r.name, Server: e.server, Addr: f.Reply.Src, Err: err})
	}
}

// worked tells of the first connect that worked after some that did not.
func (t *tracker) worked(r *route, f *conntrack.Flow) {
	e := r.endpoint(f.Reply.Src)
	if e.failing && t.hooks.Dial != nil {
		t.hooks.Dial(engine.Dial{Route: r.name, Server: e.server, Addr: f.Reply.Src})
	}
	e.failing = false
}

func (t *tracker) wants(end bool) bool {
	return t.hooks.Record != nil && (t.hooks.Wants == nil || t.hooks.Wants(end))
}

func (t *tracker) record(l *life, f *conntrack.Flow) *engine.Record {
	rec := &engine.Record{
		Conn: engine.Conn{
			ID: connID(f), Route: l.route.name, Client: f.Orig.Src, Listener: f.Orig.Dst, Server: l.server, Endpoint: l.endpoint,
			Start: l.start, BytesUp: f.Up.Bytes, BytesDown: f.Down.Bytes,
		},
		TotalActive: t.active, RouteActive: l.route.active, ServerActive: l.route.endpoint(l.endpoint).active,
	}
	if !l.connected.IsZero() {
		rec.Connect = max(l.connected.Sub(l.start), 1)
	}
	return rec
}

// connID names a connection: n, and the kernel's number for it.
func connID(f *conntrack.Flow) string { return fmt.Sprintf("n%08x", f.ID) }

// resync compares with all that the kernel has, after it could not tell of
// everything.
func (t *tracker) resync() error {
	seen := map[conntrack.Tuple]bool{}
	err := t.flows.Dump(markOurs, markOursBits, func(f *conntrack.Flow) {
		seen[f.Orig] = true
		t.event(conntrack.Update, f)
	})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for tuple, l := range maps.Clone(t.lives) {
		if !seen[tuple] {
			f := &conntrack.Flow{ID: l.id, Orig: tuple, Reply: conntrack.Tuple{Src: l.endpoint}}
			why := l.doomed
			switch {
			case why != "":
			case l.connected.IsZero():
				why = engine.LostClient // or the server; nothing is known
			default:
				why = engine.ClosedByClient // more likely than any other
			}
			t.finish(l, f, why)
		}
	}
	return nil
}

// doom notes why a connection is about to be cut; undo takes that back.
func (t *tracker) doom(f *conntrack.Flow, why engine.Reason) (undo func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tuple := f.Orig
	if l := t.lives[tuple]; l != nil {
		l.doomed = why
	} else if !t.logs {
		t.dooms[tuple] = why
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if l := t.lives[tuple]; l != nil {
			l.doomed = ""
		}
		delete(t.dooms, tuple)
	}
}

// settle waits until no connection is left, at most for so long.
func (t *tracker) settle(limit time.Duration) {
	for give := time.Now().Add(limit); time.Now().Before(give); time.Sleep(time.Millisecond) {
		t.mu.Lock()
		left := len(t.lives)
		t.mu.Unlock()
		if left == 0 {
			return
		}
	}
}
