package relay

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/plan"
)

// warm are a loop's connections to servers that were made before a client came
// for them (the key `warm`): its connection then need not wait for a handshake.
type warm struct {
	routes  []*route
	conns   []*warmConn               // by slot; nil: free
	idle    map[*endpoint][]*warmConn // connected or about to be, the oldest first
	lacking []lacking                 // taken in this batch, to be made anew
	tendAt  time.Duration             // loop time of the next look at all; 0: none
	gen     uint32
}

type warmConn struct {
	fd        int32
	slot, gen uint32
	endpoint  *endpoint
	to        netip.AddrPort
	options   sockOptions
	made      time.Duration // loop time
	expires   time.Duration // loop time
	connected bool
}

type lacking struct {
	set *settings
	c   *choice
}

const (
	// warmLife is how long a connection is kept for a client: what has happened
	// to a server without a word (it was cut off, say) is met by no more than
	// this much. Some go earlier, or all would be made anew at once.
	warmLife = 30 * time.Second
	// warmEvery is how often a loop replaces what is too old, and tries again
	// to reach a server.
	warmEvery = time.Second
	// warmBurst is how many connects one look starts at the most.
	warmBurst = 64
	// warmRefused is how long a server that has spoken first is left alone.
	warmRefused = 5 * time.Minute
)

// useWarm says which routes have warm connections.
func (l *loop) useWarm(routes []*route) {
	l.warm.routes = routes
	l.tend()
}

// tend drops what is too old or of no use any more, and makes what is missing.
func (l *loop) tend() {
	l.warm.tendAt = 0
	if len(l.warm.routes) > 0 {
		l.warm.tendAt = l.now + warmEvery
	}
	type target struct {
		set *settings
		c   *choice
	}
	wanted := map[*endpoint]target{}
	for _, r := range l.warm.routes {
		set := r.set.Load()
		if len(set.Listen) == 0 {
			continue // a drain has begun
		}
		for i := range set.picker.tiers[0] {
			c := &set.picker.tiers[0][i]
			wanted[c.endpoint] = target{set, c}
		}
	}
	for _, w := range slices.Clone(l.warm.conns) {
		if w == nil {
			continue
		}
		t, is := wanted[w.endpoint]
		usable := is && w.to == t.c.at(t.set.MainPort(t.c.server)) && w.options == t.set.options
		late := !w.connected && l.now-w.made >= initialRTO
		if !usable || late || l.now >= w.expires || len(l.warm.idle[w.endpoint]) > l.warmShare(t.set.Route) {
			l.dropWarm(w)
		}
	}
	left := warmBurst
	for _, t := range wanted {
		left -= l.topUp(t.set, t.c, left)
	}
}

// warmShare is a loop's part of the warm connections to each address of a server.
func (l *loop) warmShare(r *plan.Route) int { return share(r.Warm, len(l.e.loops)) }

// share is a loop's part of n.
func share(n, loops int) int { return (n + loops - 1) / loops }

// topUp makes the connections that c lacks, at the most so many, and returns how
// many it has begun. A server with several ports has them to the first.
func (l *loop) topUp(set *settings, c *choice, most int) (begun int) {
	if time.Now().Unix() < c.noWarm.Load() {
		return 0
	}
	to := c.at(set.MainPort(c.server))
	if l.e.own.Load().circle(set.owner, to) {
		return 0
	}
	for lack := l.warmShare(set.Route) - len(l.warm.idle[c.endpoint]); lack > 0 && begun < most; lack-- {
		if !l.warmUp(set, c, to) {
			break
		}
		begun++
	}
	return begun
}

// warmUp starts one connect.
func (l *loop) warmUp(set *settings, c *choice, to netip.AddrPort) bool {
	if !l.e.takeFDs(1) {
		return false
	}
	fd, op, e := l.socket(to, set)
	if e != 0 {
		l.e.giveFDs(1)
		return false
	}
	l.warm.gen++
	early := warmLife / 4 * time.Duration(l.warm.gen%8) / 8
	w := &warmConn{
		fd: fd, gen: l.warm.gen, endpoint: c.endpoint, to: to, options: set.options,
		made: l.now, expires: l.now + warmLife - early,
	}
	i := slices.Index(l.warm.conns, nil)
	if i < 0 {
		i = len(l.warm.conns)
		l.warm.conns = append(l.warm.conns, nil)
	}
	w.slot = uint32(i)
	l.warm.conns[i] = w
	if l.warm.idle == nil {
		l.warm.idle = map[*endpoint][]*warmConn{}
	}
	l.warm.idle[c.endpoint] = append(l.warm.idle[c.endpoint], w)
	c.warm.Add(1)
	if e = connect(fd, to); e == 0 {
		e = l.control(op, fd, serverEvents, w.slot, whichWarm, w.gen)
	}
	if e != 0 {
		l.dropWarm(w)
	}
	return e == 0
}

// onWarm takes an event of a warm connection: it is made; or the server has
// ended it; or it has spoken first, and a client would get a stale greeting. A
// server that does so may also count how often it was left without an answer.
func (l *loop) onWarm(w *warmConn, events uint32) {
	switch {
	case events&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLRDHUP) != 0:
		l.dropWarm(w)
	case events&unix.EPOLLIN != 0:
		l.e.complain("a server speaks on a connection that no client has used yet: `warm` is of no use to it", "server", w.to.String(), "again_in", warmRefused)
		w.endpoint.noWarm.Store(time.Now().Add(warmRefused).Unix())
		for _, other := range slices.Clone(l.warm.idle[w.endpoint]) {
			l.dropWarm(other)
		}
	case events&unix.EPOLLOUT != 0:
		w.connected = true
	}
}

// takeWarm hands over the descriptor of a connection to an address, the
// youngest; -1: there is none.
func (l *loop) takeWarm(set *settings, c *choice, to netip.AddrPort) int32 {
	list := l.warm.idle[c.endpoint]
	for i := len(list) - 1; i >= 0; i-- {
		w := list[i]
		if !w.connected || w.to != to || w.options != set.options || l.now >= w.expires {
			continue
		}
		if peek(w.fd) != unix.EAGAIN {
			continue // its event is still to come
		}
		l.forgetWarm(w)
		l.warm.lacking = append(l.warm.lacking, lacking{set, c})
		return w.fd
	}
	return -1
}

// replaceWarm makes anew what was taken in this batch.
func (l *loop) replaceWarm() {
	taken := l.warm.lacking
	l.warm.lacking = nil
	for _, k := range taken {
		// Meanwhile the route may have other settings, or be gone.
		if k.set.owner.set.Load() == k.set && len(k.set.Listen) > 0 && slices.Contains(l.warm.routes, k.set.owner) {
			l.topUp(k.set, k.c, warmBurst)
		}
	}
}

func (l *loop) dropWarm(w *warmConn) {
	l.forgetWarm(w)
	l.closeLater(w.fd)
}

// forgetWarm takes w, whose descriptor lives on, out of the books.
func (l *loop) forgetWarm(w *warmConn) {
	l.warm.conns[w.slot] = nil
	w.endpoint.warm.Add(-1)
	list := slices.DeleteFunc(l.warm.idle[w.endpoint], func(x *warmConn) bool { return x == w })
	if l.warm.idle[w.endpoint] = list; len(list) == 0 {
		delete(l.warm.idle, w.endpoint)
	}
	l.e.giveFDs(1)
}

// closeWarm closes them all.
func (l *loop) closeWarm() {
	for _, w := range l.warm.conns {
		if w != nil {
			closeFD(w.fd)
		}
	}
}

// setWarm tells the loops which routes have connections to servers ready. A
// route that does not listen needs none.
func (e *Engine) setWarm(p *plan.Plan, byName map[string]*route) {
	var routes []*route
	for _, r := range p.Routes {
		if r.Warm > 0 && len(r.Listen) > 0 {
			routes = append(routes, byName[r.Name])
		}
	}
	if len(routes) == 0 && !e.warm {
		return
	}
	e.warm = len(routes) > 0
	for _, l := range e.loops {
		l.call(func() { l.useWarm(routes) })
	}
}

// warmFDs is how many descriptors the warm connections of p take.
func warmFDs(p *plan.Plan, loops int) (n int) {
	for _, r := range p.Routes {
		for _, s := range r.Servers {
			if len(r.Listen) > 0 && !s.Backup {
				n += share(r.Warm, loops) * loops * len(s.Endpoints)
			}
		}
	}
	return n
}
