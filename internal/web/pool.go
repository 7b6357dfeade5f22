package web

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// idleServer is how long a connection to a server is kept for further
	// requests, where the server does not ask for less: shorter than what
	// servers and firewalls commonly allow.
	idleServer = 30 * time.Second
	// maxIdle is how many are kept for one endpoint.
	maxIdle = 1024
)

// upstream is a connection to a server.
type upstream struct {
	leg
	ep     Endpoint
	idle   time.Duration // how long it may be idle
	until  time.Time     // when it has been so for too long
	used   bool          // there was a request on it before
	halved atomic.Bool   // the client has closed its side, and that was passed on
}

// pool are the connections to servers that no request is using.
type pool struct {
	mu     sync.Mutex
	idle   map[Endpoint][]*upstream // the last one used is the last one
	closed bool
}

func (p *pool) init() { p.idle = map[Endpoint][]*upstream{} }

// get takes the connection that was used last and is alive; nil: there is none.
func (p *pool) get(ep Endpoint, now time.Time) *upstream {
	for {
		p.mu.Lock()
		all := p.idle[ep]
		n := len(all)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		up := all[n-1]
		all[n-1] = nil
		p.idle[ep] = all[:n-1]
		p.mu.Unlock()
		if now.Before(up.until) && up.alive() {
			return up
		}
		up.Close()
	}
}

func (p *pool) put(up *upstream, now time.Time) {
	up.used = true
	up.until = now.Add(up.idle)
	p.mu.Lock()
	all := p.idle[up.ep]
	keep := !p.closed && len(all) < maxIdle
	if keep {
		p.idle[up.ep] = append(all, up)
	}
	p.mu.Unlock()
	if !keep {
		up.Close()
	}
}

// expire closes what has been idle for too long, and what the server has closed.
func (p *pool) expire(now time.Time) {
	var gone []*upstream
	p.mu.Lock()
	for ep, all := range p.idle {
		keep := all[:0]
		for _, up := range all {
			if now.After(up.until) || !up.alive() {
				gone = append(gone, up)
			} else {
				keep = append(keep, up)
			}
		}
		clear(all[len(keep):])
		if p.idle[ep] = keep; len(keep) == 0 {
			delete(p.idle, ep)
		}
	}
	p.mu.Unlock()
	for _, up := range gone {
		up.Close()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	all := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, ups := range all {
		for _, up := range ups {
			up.Close()
		}
	}
}
