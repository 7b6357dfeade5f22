// Package resolve keeps the addresses of a set of names current for a TCP
// forwarder. A name is looked up when it is first watched, again when the time
// to live (TTL) of its answer has passed, and at once when the caller says that
// a connect failed. Looking up never blocks the caller, and a failure of any
// kind never takes addresses away: what was last known good stays in use until
// a server gives other addresses.
//
// The hosts file is asked first, then the name servers, for A and AAAA records
// together; the answer is the union of both. If only one of the two fails, its
// last good addresses stay beside the fresh ones of the other.
//
// Limits, so that nobody looks for more: no DNSSEC validation, DNS over TLS or
// HTTPS; no SRV or HTTPS records; nsswitch.conf, mDNS and the resolv.conf options
// timeout, attempts and rotate are not followed; only the first three servers of
// resolv.conf are asked, as in the C library; names in other scripts must be
// given in their ASCII (xn--) form; at most 64 addresses of a name are kept. A
// server that never answers AAAA delays each look-up by Timeout, because a
// look-up ends when both questions have ended.
package resolve

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	defaultMinTTL  = time.Second
	defaultMaxTTL  = 5 * time.Minute
	defaultTimeout = 2 * time.Second

	// maxLookups bounds the look-ups under way, so that a thousand names do not
	// flood the name server. Each has two questions in flight at most.
	maxLookups = 32
	// refreshGap is the least time between the starts of two look-ups of a name
	// that callers of Refresh can cause.
	refreshGap = time.Second
	// pollEvery is how often the hosts file and resolv.conf are looked at for a
	// change that must reach names whose next look-up is still far off.
	pollEvery = 5 * time.Second
)

var errClosed = errors.New("resolver is closed")

// Options say where and how names are looked up. The zero value works: the
// system's files and the defaults named here.
type Options struct {
	// Servers are the name servers to ask, in this order; the next one is asked
	// when one fails. With Servers a name is looked up as it is: resolv.conf and
	// its search list are not used. None: the servers of ResolvConf.
	Servers []netip.AddrPort

	// ResolvConf is the file with servers, search list and ndots. Empty means
	// /etc/resolv.conf. It is read again when it has changed. Without a
	// server in it, or without the file, 127.0.0.1:53 is asked, as resolv.conf(5)
	// says.
	ResolvConf string

	// Hosts is the file whose entries win over DNS. Empty means /etc/hosts. It
	// is read again when it has changed; names notice within 5 seconds.
	Hosts string

	// MinTTL and MaxTTL clamp the TTL of an answer, which DNS gives in whole
	// seconds. Zero and less mean the defaults, 1s and 5m. A MaxTTL below
	// MinTTL is raised to it. Look-ups are spread by up to a tenth of the
	// TTL, 5s at most, on top of it. Failed look-ups are repeated after 1s,
	// doubling up to 30s, whatever the two say.
	MinTTL, MaxTTL time.Duration

	// Timeout is for one try to one server over one protocol. Zero and less
	// mean the default, 2s.
	Timeout time.Duration

	// Log gets one warning when a name begins to fail, and one line each when it
	// recovers and when its addresses change. Nil discards.
	Log *slog.Logger

	// OnChange is called after the addresses or the error of any watched name
	// changed. Several changes may share one call, and calls never overlap. It
	// runs on a goroutine of the resolver's: it must not block long, and must
	// not call Close.
	OnChange func()
}

// Answer is what is known of one name. The zero Answer is that of a name whose
// first look-up has not ended.
type Answer struct {
	Addrs []netip.Addr // sorted, no duplicates, IPv4 never in IPv6 form; never emptied by a failure
	Err   error        // why the newest look-up failed, wholly or for some of Addrs; nil when Addrs are fresh
	Since time.Time    // when Addrs were last confirmed, all of them; zero: never
	Next  time.Time    // when the name is asked again, unless Refresh or a changed file does so before
}

// Resolver keeps names current until it is closed. Its methods may be called
// from any goroutine.
type Resolver struct {
	log    *slog.Logger
	lim    limits
	lookup func(ctx context.Context, name, via string) result // tests replace it
	slots  chan struct{}                                      // one token for each look-up under way
	change chan struct{}                                      // one token: OnChange is due

	ctx  context.Context // ends on Close
	stop context.CancelFunc
	wg   sync.WaitGroup // every goroutine of the resolver's

	mu     sync.Mutex // guards what follows, and the entries' state and busy
	closed bool
	names  map[string]*entry
}

// New returns a Resolver that watches nothing yet. It must be closed.
func New(o Options) *Resolver {
	if o.MinTTL <= 0 {
		o.MinTTL = defaultMinTTL
	}
	if o.MaxTTL <= 0 {
		o.MaxTTL = defaultMaxTTL
	}
	o.MaxTTL = max(o.MinTTL, o.MaxTTL)
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	src := newSources(o.Hosts, o.ResolvConf, o.Servers)
	w := &wire{src: src, timeout: o.Timeout, maxTTL: o.MaxTTL}
	r := start(o, w.lookup)
	_, _, gen := src.current()
	r.wg.Go(func() { r.poll(src, gen) })
	return r
}

// start returns a Resolver that looks names up with the function given and
// watches no file. The TTLs of o must be set.
func start(o Options, lookup func(ctx context.Context, name, via string) result) *Resolver {
	r := &Resolver{
		log:    o.Log,
		lim:    limits{minTTL: o.MinTTL, maxTTL: o.MaxTTL},
		lookup: lookup,
		slots:  make(chan struct{}, maxLookups),
		change: make(chan struct{}, 1),
		names:  make(map[string]*entry),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	if o.OnChange != nil {
		r.wg.Go(func() { r.notify(o.OnChange) })
	}
	return r
}

// Watch makes names the whole set that is kept current. New ones are looked up
// at once, those known keep their answers, missing ones are forgotten with
// their addresses. An IP address in text form need not be among them; it
// answers with itself. Answers has the names as they are spelled here.
func (r *Resolver) Watch(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
	}
	for name, e := range r.names {
		if !wanted[name] {
			e.stop()
			delete(r.names, name)
		}
	}
	for name := range wanted {
		if r.names[name] != nil {
			continue
		}
		ctx, stop := context.WithCancel(r.ctx)
		e := &entry{
			state: state{name: name},
			stop:  stop,
			wake:  make(chan struct{}, 1),
			tried: make(chan struct{}),
		}
		r.names[name] = e
		r.wg.Go(func() { r.keep(ctx, e) })
	}
}

// Refresh asks for name again now, because a connect to it failed. The look-ups
// of a name that it causes start at least one second apart: a call that comes
// sooner takes effect at the end of that second, and one that comes while the
// name is being looked up has none, as the answer will be fresh. A name that is
// not watched is ignored.
func (r *Resolver) Refresh(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.names[name]; e != nil && !e.busy {
		e.due()
	}
}

// Wait returns when every name watched at the time of the call has had one full
// try, which may have failed, or has been forgotten. It returns the error of ctx
// if that ends before, and an error if the resolver is closed.
func (r *Resolver) Wait(ctx context.Context) error {
	r.mu.Lock()
	tried := make([]<-chan struct{}, 0, len(r.names))
	for _, e := range r.names {
		tried = append(tried, e.tried)
	}
	r.mu.Unlock()
	for _, done := range tried {
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if r.ctx.Err() != nil {
		return errClosed
	}
	return nil
}

// Answers returns what is known of each watched name. The map and its slices
// are the caller's.
func (r *Resolver) Answers() map[string]Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string]Answer, len(r.names))
	for name, e := range r.names {
		a := e.state.answer
		a.Addrs = slices.Clone(a.Addrs)
		all[name] = a
	}
	return all
}

// Close ends all look-ups and returns when every goroutine of the resolver's has
// ended. The newest answers stay readable.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.wg.Wait()
}
