package relay

import (
	"slices"

	"midspan/internal/plan"
	"midspan/internal/proxyproto"
)

// greet writes the PROXY header that p's server gets before anything else, and
// with it, in one segment, what there is of the client's. The header is not
// counted among the bytes of the client, but for what of it a socket does not take
// at once, which is none: it has just been connected.
func (l *loop) greet(p *pair) {
	b := p.appendProxyHeader(l.scratch[:0], p.set.SendProxy)
	if p.call != nil {
		p.call.tlvs = nil
	}
	from, size := &p.client, len(b)
	if from.held != nil {
		b = append(b, from.held.rest[:min(len(from.held.rest), cap(b)-size)]...)
	}
	n, e := write(p.server.fd, b)
	switch {
	case e != 0:
		n = 0 // the next write finds it too, and deals with it
		fallthrough
	case n < size:
		if from.held == nil {
			from.held = l.buffer(nil)
		}
		from.held.rest = slices.Concat(b[n:size], from.held.rest)
	case from.held != nil:
		before := from.moved
		l.wrote(from, n-size)
		l.count(p, p.books(), from, before)
	}
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
