package relay

import (
	"slices"

	"midspan/internal/plan"
	"midspan/internal/proxyproto"
)

// greet writes the PROXY header that p's server gets before anything else. It is
// not counted among the bytes of the client, but for what of it a socket does not
// take at once, which is none: it has just been connected.
func (l *loop) greet(p *pair) {
	b := p.appendProxyHeader(l.scratch[:0], p.set.SendProxy)
	// With data in hand both go out in one segment.
	n, e := send(p.server.fd, b, p.client.held != nil)
	if e != 0 {
		n = 0 // the next write finds it too, and deals with it
	}
	if p.call != nil {
		p.call.tlvs = nil
	}
	if n == len(b) {
		return
	}
	if p.client.held == nil {
		p.client.held = l.buffer(nil)
	}
	p.client.held.rest = slices.Concat(b[n:], p.client.held.rest)
}

// appendProxyHeader appends the header that tells a server of p's client.
func (p *pair) appendProxyHeader(b []byte, v plan.SendProxy) []byte {
	version := 1
	if v == plan.SendV2 {
		version = 2
	}
	if p.call == nil {
		return proxyproto.Append(b, version, p.clientAddr.full(), p.local())
	}
	dst := p.call.dst.full()
	if !dst.IsValid() {
		dst = p.local()
	}
	return proxyproto.Append(b, version, p.clientAddr.full(), dst, p.call.tlvs)
}
