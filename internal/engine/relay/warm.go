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
	connected bool
}

type lacking struct {
	set *settings
	c   *choice
}

const (
	// warmLife is how long a connection is kept for a client: what has happened
	// to a server without a word (it was cut off, say) is met by no more than
	// this much.
	warmLife = 30 * time.Second
	// warmEvery is how often a loop replaces what is too old, and tries again
	// to reach a server.
	warmEvery = time.Second
)

// useWarm says which routes have warm connections.
func (l *loop) useWarm(routes []*route) {
	l.warm.routes = routes
	if len(routes) > 0 || len(l.warm.idle) > 0 {
		l.tend()
	}
}

// tend drops what is too old or not wanted any more, and makes what is missing.
func (l *loop) tend() {
	l.now = time.Since(l.epoch)
	wanted := map[*endpoint]bool{}
	for _, r := range l.warm.routes {
		set := r.set.Load()
		for i := range set.picker.tiers[0] {
			c := &set.picker.tiers[0][i]
			wanted[c.endpoint] = true
			l.topUp(set, c)
		}
	}
	for ep, list := range l.warm.idle {
		for _, w := range slices.Clone(list) {
			if !wanted[ep] || l.now-w.made >= warmLife || (!w.connected && l.now-w.made >= initialRTO) {
				l.dropWarm(w)
			}
		}
	}
	l.warm.tendAt = 0
	if len(l.warm.routes) > 0 {
		l.warm.tendAt = l.now + warmEvery
	}
}

// warmShare is a loop's part of the warm connections to each address of a server.
func (l *loop) warmShare(r *plan.Route) int {
	loops := len(l.e.loops)
	return (r.Warm + loops - 1) / loops
}

// topUp makes the connections that c lacks. A server with several listeners has
// them to the port of the first.
func (l *loop) topUp(set *settings, c *choice) {
	to := c.at(set.MainPort(c.server))
	for n := len(l.warm.idle[c.endpoint]); n < l.warmShare(set.Route); n++ {
		if l.e.own.Load().circle(set.owner, to) || !l.warmUp(set, c, to) {
			return
		}
	}
}

// warmUp starts one connect.
func (l *loop) warmUp(set *settings, c *choice, to netip.AddrPort) bool {
	if !l.e.takeFDs(1) {
		return false
	}
	fd, op, e := l.socket(to, set.options)
	if e != 0 {
		l.e.giveFDs(1)
		return false
	}
	l.warm.gen++
	w := &warmConn{fd: fd, gen: l.warm.gen, endpoint: c.endpoint, to: to, options: set.options, made: l.now}
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
	if e = connect(fd, to); e == 0 {
		e = l.control(op, fd, serverEvents, w.slot, whichWarm, w.gen)
	}
	if e != 0 {
		l.dropWarm(w)
	}
	return e == 0
}

// onWarm takes an event of a warm connection: it is made; or the server has
// ended it; or it has spoken first, and a client would get a stale greeting.
func (l *loop) onWarm(w *warmConn, events uint32) {
	switch {
	case events&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLRDHUP) != 0:
		l.dropWarm(w)
	case events&unix.EPOLLIN != 0:
		l.e.complain("a server speaks before its client does: warm connections are of no use to it; remove `warm`", "server", w.to.String())
		l.dropWarm(w)
	case events&unix.EPOLLOUT != 0:
		w.connected = true
	}
}

// takeWarm hands over the descriptor of a connection to an address; -1: there
// is none.
func (l *loop) takeWarm(set *settings, c *choice, to netip.AddrPort) int32 {
	for _, w := range l.warm.idle[c.endpoint] {
		if w.connected && w.to == to && w.options == set.options && l.now-w.made < warmLife {
			l.forgetWarm(w)
			l.warm.lacking = append(l.warm.lacking, lacking{set, c})
			return w.fd
		}
	}
	return -1
}

// replaceWarm makes anew what was taken in this batch.
func (l *loop) replaceWarm() {
	for _, k := range l.warm.lacking {
		if k.set.owner.set.Load() == k.set {
			l.topUp(k.set, k.c)
		}
	}
	l.warm.lacking = l.warm.lacking[:0]
}

func (l *loop) dropWarm(w *warmConn) {
	l.forgetWarm(w)
	l.closeLater(w.fd)
}

// forgetWarm takes w, whose descriptor lives on, out of the books.
func (l *loop) forgetWarm(w *warmConn) {
	l.warm.conns[w.slot] = nil
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
