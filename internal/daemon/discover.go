package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"midspan/internal/brokers"
	"midspan/internal/certs"
	"midspan/internal/plan"
	"midspan/internal/proxyproto"
)

const (
	// maxAsked is how many bootstrap endpoints are asked in one round, at most.
	maxAsked       = 8
	connectTimeout = 2500 * time.Millisecond
	answerTimeout  = 3 * time.Second // for TLS and both requests
)

// discovery asks the clusters of routes for their nodes: at the start and after a
// reload, every `discover`, and when a client wants a node that is not known.
type discovery struct {
	log      *slog.Logger
	plan     func() *plan.Plan                                                      // in force, with endpoints; nil before the first
	ask      func(context.Context, *plan.Route, bootstrap) (brokers.Cluster, error) // tests replace it
	answered func(route string, a brokers.Cluster) (news bool)
	onChange func()

	mu     sync.Mutex // guards what follows
	askers map[string]*asker
	closed bool
	wg     sync.WaitGroup // every goroutine of the discovery's
}

// asker asks one route's cluster, again and again until it is stopped.
type asker struct {
	*discovery
	route string
	every time.Duration
	want  chan struct{} // one token: a client wants a node that is not known
	stop  context.CancelFunc

	state ClusterState // guarded by discovery.mu
}

// ClusterState is how it went when a route's cluster was asked for its nodes.
type ClusterState struct {
	ID       string       `json:"id,omitempty"`
	Answered time.Time    `json:"answered,omitzero"` // the newest answer; zero: none yet
	Problem  string       `json:"problem,omitempty"` // why there is none since; "": there is
	Kind     brokers.Kind `json:"kind,omitempty"`    // of Problem; "": no broker was reached
}

// use asks the clusters of p, all of them at once, and no others.
func (d *discovery) use(p *plan.Plan) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.askers
	d.askers = map[string]*asker{}
	for _, a := range old {
		a.stop()
	}
	if d.closed {
		return
	}
	for _, r := range p.Routes {
		if r.Kafka == nil || r.Kafka.Discover == 0 {
			continue
		}
		ctx, stop := context.WithCancel(context.Background())
		a := &asker{discovery: d, route: r.Name, every: r.Kafka.Discover.D(), want: make(chan struct{}, 1), stop: stop}
		if before := old[r.Name]; before != nil {
			a.state = before.state // so that nothing is said twice
		}
		d.askers[r.Name] = a
		d.wg.Go(func() { a.keep(ctx) })
	}
}

// wanted has a cluster asked soon. It never blocks.
func (d *discovery) wanted(route string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.askers[route]; a != nil {
		select {
		case a.want <- struct{}{}:
		default:
		}
	}
}

func (d *discovery) states() map[string]ClusterState {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]ClusterState{}
	for route, a := range d.askers {
		all[route] = a.state
	}
	return all
}

// close returns when every goroutine has ended.
func (d *discovery) close() {
	d.mu.Lock()
	d.closed = true
	for _, a := range d.askers {
		a.stop()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// keep asks until ctx ends.
func (a *asker) keep(ctx context.Context) {
	pace := pace{every: a.every}
	for {
		select {
		case <-a.want: // this round is for that
		default:
		}
		c, err := a.round(ctx)
		if ctx.Err() != nil {
			return
		}
		a.note(c, err)
		news := err == nil && a.answered(a.route, c)
		if news {
			a.onChange()
		}
		next, soonest := pace.after(outcomeOf(err, news))
		if !a.pause(ctx, jitter(next, rand.Float64()), soonest) {
			return
		}
	}
}

// pause waits for next, or less if a node is wanted, but until soonest in any case.
// It is false when ctx has ended.
func (a *asker) pause(ctx context.Context, next, soonest time.Duration) bool {
	first, all := time.NewTimer(soonest), time.NewTimer(next)
	defer first.Stop()
	defer all.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-first.C:
	}
	select {
	case <-ctx.Done():
		return false
	case <-all.C:
	case <-a.want:
	}
	return true
}

// note keeps how it went, and logs what is new about it.
func (a *asker) note(c brokers.Cluster, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.state
	if err == nil {
		a.state = ClusterState{ID: c.ID, Answered: now()}
		if old.Problem != "" {
			a.log.Info("the cluster says which nodes it has", "route", a.route)
		}
		return
	}
	a.state.Problem, a.state.Kind = err.Error(), brokers.KindOf(err)
	switch {
	case old.Problem != "" && old.Kind == a.state.Kind:
	case a.state.Kind == brokers.WantsSASL:
		a.log.Info("the cluster wants SASL, so its nodes are known from clients' answers and `nodes` only", "route", a.route)
	default:
		a.log.Warn("cannot ask the cluster for its nodes", "route", a.route, "error", err)
	}
}

// outcome is what a round came to.
type outcome int

const (
	gotNews outcome = iota
	gotNothingNew
	gotNoAnswer
	gotNoAccess // without credentials there is no answer, however often we ask
)

func outcomeOf(err error, news bool) outcome {
	switch {
	case brokers.KindOf(err) == brokers.WantsSASL:
		return gotNoAccess
	case err != nil:
		return gotNoAnswer
	case news:
		return gotNews
	}
	return gotNothingNew
}

// pace is how often a cluster is asked.
type pace struct {
	every time.Duration
	vain  int // rounds in a row that brought nothing
	none  int // rounds in a row without an answer
	shut  int // rounds in a row without access
}

const (
	// minGap is the least time between two rounds; maxGap is what it
	// grows to while what clients want is not there: a load balancer that tests the
	// ports of nodes by connecting wants all of them, for ever.
	minGap = time.Second
	maxGap = 15 * time.Second
	// maxNoAccess is what the time between two rounds grows to while the cluster wants
	// SASL. Brokers log each.
	maxNoAccess = time.Hour
)

// after says when the next round is due, and how soon a wanted node may make it.
func (p *pace) after(o outcome) (next, soonest time.Duration) {
	// A broker that starts, or stops, may look for a moment as if it wanted SASL.
	if o != gotNoAccess {
		p.shut = 0
	}
	switch o {
	case gotNews:
		p.vain, p.none = 0, 0
		return p.every, min(minGap, p.every)
	case gotNothingNew:
		soonest = doubled(minGap, p.vain, maxGap)
		p.vain, p.none = p.vain+1, 0
		return p.every, min(soonest, p.every)
	case gotNoAnswer:
		next = doubled(minGap, p.none, max(p.every, minGap))
		p.none++
		return next, min(next, maxGap)
	default:
		next = doubled(max(p.every, time.Minute), p.shut, maxNoAccess)
		p.shut, p.none = p.shut+1, 0
		return next, next
	}
}

// doubled is d doubled n times, but not more than most.
func doubled(d time.Duration, n int, most time.Duration) time.Duration {
	return min(d<<min(n, 20), most)
}

// jitter is d, more or less by a tenth, so that many forwarders do not ask at once.
func jitter(d time.Duration, random float64) time.Duration {
	return d + time.Duration((random-0.5)*0.2*float64(d))
}

// bootstrap is a place to ask at.
type bootstrap struct {
	addr netip.AddrPort
	host string // that the certificate must have, where TLS is spoken
	up   bool
}

// bootstraps are where a route's cluster can be asked: those that are up first, then
// from one that turn says, so that not all forwarders ask the same broker.
func bootstraps(r *plan.Route, turn int) (all []bootstrap) {
	for _, i := range r.Default {
		s := r.Servers[i]
		for _, e := range s.Endpoints {
			all = append(all, bootstrap{netip.AddrPortFrom(e.Addr, r.MainPort(s)), s.CertName(), e.Up && !e.LastResort})
		}
	}
	if n := len(all); n > 0 {
		all = slices.Concat(all[turn%n:], all[:turn%n])
	}
	slices.SortStableFunc(all, func(x, y bootstrap) int {
		switch {
		case x.up == y.up:
			return 0
		case x.up:
			return -1
		}
		return 1
	})
	return all[:min(len(all), maxAsked)]
}

// round asks one broker after another, until one answers or wants credentials.
func (a *asker) round(ctx context.Context) (c brokers.Cluster, err error) {
	p := a.plan()
	i := -1
	if p != nil {
		i = slices.IndexFunc(p.Routes, func(r *plan.Route) bool { return r.Name == a.route })
	}
	if i < 0 {
		return c, fmt.Errorf("route %s is not in force", a.route)
	}
	err = errors.New("no server of `to` has an address")
	for _, b := range bootstraps(p.Routes[i], rand.IntN(1<<16)) {
		c, err = a.ask(ctx, p.Routes[i], b)
		if err == nil || brokers.KindOf(err) == brokers.WantsSASL || ctx.Err() != nil {
			return c, err
		}
	}
	return c, err
}

// askBroker asks one, over a connection that is like the route's own.
func askBroker(ctx context.Context, r *plan.Route, b bootstrap) (brokers.Cluster, error) {
	conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, "tcp", b.addr.String())
	if err != nil {
		return brokers.Cluster{}, fmt.Errorf("%s: connect: %w", b.addr, connectWords(err))
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	// As the tests do: this connection is the forwarder's own.
	if version := map[plan.SendProxy]int{plan.SendV1: 1, plan.SendV2: 2}[r.SendProxy]; version > 0 {
		if _, err := conn.Write(proxyproto.Append(nil, version, netip.AddrPort{}, netip.AddrPort{})); err != nil {
			return brokers.Cluster{}, fmt.Errorf("%s: %w", b.addr, connectWords(err))
		}
	}
	if r.UpstreamTLS.On {
		config, err := certs.Read(r.UpstreamTLS)
		if err != nil {
			return brokers.Cluster{}, err
		}
		if config.ServerName == "" {
			config.ServerName = b.host
		}
		conn = tls.Client(conn, config)
	}
	c, err := brokers.Ask(ctx, conn)
	if err != nil {
		return c, fmt.Errorf("%s: %w", b.addr, err)
	}
	return c, nil
}

// connectWords is an error of a connection as the operating system puts it.
func connectWords(err error) error {
	var errno syscall.Errno
	var wire net.Error
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &wire) && wire.Timeout():
		return errors.New("no answer in time")
	}
	return err
}
