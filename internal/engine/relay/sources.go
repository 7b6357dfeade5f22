package relay

import (
	"sync"
	"sync/atomic"
	"time"
)

// maxSources is how many clients of a route are counted at once; they take some
// 10 MB.
const maxSources = 100_000

// sources counts the connections of each client of a route. All loops share it.
//
// A client that has no connections is kept only until its rate has recovered. At
// maxSources those are forgotten early, the oldest first; when all have
// connections, a client more is not counted. It is let in all the same: the
// limits are there so that one client does not take everything, and who comes
// from so many addresses is only stopped by the limits of the route.
type sources struct {
	began  time.Time
	n      atomic.Int64 // in all shards
	shards [16]sourceShard
}

type sourceShard struct {
	mu      sync.Mutex
	clients map[sourceKey]source
	resting []sourceKey // without connections and not recovered, in the order in which they began to rest
	most    int         // clients since the map was made
	_       [64]byte
}

// sourceKey is an IPv4 address (mapped into IPv6), or the first 64 bits of an
// IPv6 one: a single host has as many addresses below that as it likes.
type sourceKey [16]byte

type source struct {
	conns   int
	fullAt  time.Duration // state of the pace, since began
	resting bool          // it is in the shard's list
}

// sourceLimits are those of a client; zero: none.
type sourceLimits struct {
	max int
	pace
}

type sourceVerdict int

const (
	sourceCounted sourceVerdict = iota
	sourceRefused
	sourceUncounted // let in, but not counted
)

func newSources() *sources { return &sources{began: time.Now()} }

var mappedPrefix = [12]byte{10: 0xff, 11: 0xff} // RFC 4291 section 2.5.5.2

func sourceOf(client [16]byte) sourceKey {
	k := sourceKey(client)
	if [12]byte(k[:12]) != mappedPrefix {
		clear(k[8:])
	}
	return k
}

func (t *sources) shard(k sourceKey) *sourceShard {
	h := k[15] // the last byte of an IPv4 address; 0 in an IPv6 one
	for _, b := range k[:8] {
		h = h*31 + b
	}
	return &t.shards[h%16]
}

// enter counts a connection of client, unless that is above its limits.
func (t *sources) enter(client [16]byte, lim *sourceLimits) sourceVerdict {
	return t.enterAt(time.Since(t.began), client, lim)
}

func (t *sources) enterAt(now time.Duration, client [16]byte, lim *sourceLimits) sourceVerdict {
	key := sourceOf(client)
	sh := t.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t.tidy(sh, now)
	s, known := sh.clients[key]
	if lim.max > 0 && s.conns >= lim.max {
		return sourceRefused
	}
	if lim.interval > 0 {
		s.fullAt = min(s.fullAt, now+lim.window) // it may be later after a reload
		at, ok := lim.take(s.fullAt, now)
		if !ok { // so it is known
			sh.clients[key] = s
			return sourceRefused
		}
		s.fullAt = at
	}
	if !known {
		if t.n.Load() >= maxSources && !t.forgetOne(sh) {
			return sourceUncounted
		}
		t.n.Add(1)
		if sh.clients == nil {
			sh.clients = map[sourceKey]source{}
		}
	}
	s.conns++
	sh.clients[key] = s
	sh.most = max(sh.most, len(sh.clients))
	return sourceCounted
}

// leave takes back a connection that was counted.
func (t *sources) leave(client [16]byte) { t.leaveAt(time.Since(t.began), client) }

func (t *sources) leaveAt(now time.Duration, client [16]byte) {
	key := sourceOf(client)
	sh := t.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t.tidy(sh, now)
	s := sh.clients[key]
	s.conns--
	if s.conns == 0 && !s.resting {
		if s.fullAt <= now {
			t.remove(sh, key)
			return
		}
		s.resting = true
		sh.resting = append(sh.resting, key)
	}
	sh.clients[key] = s
}

// tidy looks at the clients that have rested longest, two at a time: so there is
// never much to do, and more go than can come.
func (t *sources) tidy(sh *sourceShard, now time.Duration) {
	for range 2 {
		if len(sh.resting) == 0 {
			return
		}
		key := sh.resting[0]
		s := sh.clients[key]
		if s.conns == 0 && s.fullAt > now {
			return
		}
		sh.resting = sh.resting[1:]
		if s.resting = false; s.conns > 0 { // it is back
			sh.clients[key] = s
		} else {
			t.remove(sh, key)
		}
	}
}

// forgetOne makes room for a client, if it can.
func (t *sources) forgetOne(sh *sourceShard) bool {
	for len(sh.resting) > 0 {
		key := sh.resting[0]
		sh.resting = sh.resting[1:]
		s := sh.clients[key]
		if s.conns == 0 {
			t.remove(sh, key)
			return true
		}
		s.resting = false
		sh.clients[key] = s
	}
	return false
}

func (t *sources) remove(sh *sourceShard, key sourceKey) {
	delete(sh.clients, key)
	t.n.Add(-1)
	if len(sh.clients) == 0 && sh.most > 64 { // maps and slices do not shrink
		sh.clients, sh.resting, sh.most = nil, nil, 0
	}
}
