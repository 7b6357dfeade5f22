package relay

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
	"midspan/internal/proxyproto"
)

// caller is what is known of a client beyond the address that it connected from,
// which pairs of plain routes do without. With a PROXY header, pair.clientAddr
// is the address in it.
type caller struct {
	opening    *opening // in stateOpening
	peer       hostPort // who sent the PROXY header; zero: there was none
	dst        hostPort // what the header says the client connected to; zero: nothing
	link       string   // of the first header with an id
	serverName string
	tls        *engine.TLS
	name       string    // of the consumer
	consumer   *consumer // it, when it counts the connection: see admit
	picker     *picker   // of the servers for this caller; nil: all of the route
	tlvs       []byte    // of the headers, in their order, for a server that is to have them
}

// noteHeader takes over what a PROXY header says. Of several, the last one is of
// the proxy that is next to the client, and its addresses hold. The id is that of
// the first that has one: what comes after it may be the word of a customer of
// the cloud, who must not say to be somebody else.
func (p *pair) noteHeader(h *proxyproto.Header) {
	c := p.call
	if c.peer == (hostPort{}) {
		c.peer = p.clientAddr
	}
	if h.Source.IsValid() {
		p.clientAddr, c.dst = compact(h.Source), compact(h.Destination)
	}
	if c.link == "" {
		c.link = h.Link
	}
	if len(h.TLVs) > 0 && p.set.SendProxy == plan.SendV2 {
		c.tlvs = append(c.tlvs, h.TLVs...)
	}
}

// maySendAnother tells whether the client of the last header is a proxy that may
// send one too. Nobody may from behind a cloud's private endpoint: it would be
// its customer's own word for where it comes from, and the customer chooses the
// addresses there, those in `from` too. Else, where `from` says who may, it must
// be one of those.
func (p *pair) maySendAnother() bool {
	from := p.set.Proxy.From
	return p.call.link == "" && (len(from) == 0 || within(from, p.clientAddr.full().Addr()))
}

// within tells whether a is in one of the networks. IPv4 comes unmapped.
func within(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// admit decides, once it is known who the client is, whether it may come in, and
// counts it on its address and its consumer. If not, p is over.
func (l *loop) admit(p *pair) bool {
	set := p.set
	client := p.clientAddr.full().Addr()
	if !set.allows(client) {
		l.abort(p, notAllowed)
		return false
	}
	if !l.countSource(p) {
		return false
	}
	if !set.asksWho {
		return true
	}
	c := set.consumers.find(p.link(), client)
	switch {
	case c == nil && set.Guarded:
		l.refuse(p, unknownConsumer, set.nobody(p.link(), client))
		return false
	case c != nil:
		if p.call == nil {
			p.call = &caller{}
		}
		p.call.name = c.name
		if why, detail := c.join(set, l.e.clock()); detail != "" {
			l.refuse(p, why, detail)
			return false
		}
		p.call.consumer = c
	}
	if set.Mode == plan.TCP && len(set.groups) > 0 {
		return l.chooseByConsumer(p, c)
	}
	return true
}

// chooseByConsumer takes the servers of a consumer; c may be nil.
func (l *loop) chooseByConsumer(p *pair, c *consumer) bool {
	if p.call == nil {
		p.call = &caller{}
	}
	if c != nil {
		if p.call.picker = p.set.group(c.name); p.call.picker != nil {
			return true
		}
	}
	if len(p.set.Default) > 0 {
		p.call.picker = p.set.rest
		return true
	}
	if c == nil {
		l.refuse(p, unknownConsumer, p.set.nobody(p.link(), p.clientAddr.full().Addr())+", and there is no default server")
	} else {
		l.refuse(p, consumerNotAllowed, "the route has no server for this consumer")
	}
	return false
}

// nobody says why find has found no consumer: what was looked for.
func (s *settings) nobody(link string, client netip.Addr) string {
	switch {
	case link != "" && len(s.consumers.byLink) > 0:
		return "no consumer has the id " + link
	case link == "" && s.Proxy.Mode == plan.ProxyRequired:
		return fmt.Sprintf("the PROXY header has no id, and no consumer has the address %s", client)
	}
	return fmt.Sprintf("no consumer has the address %s", client)
}

// seek begins to look for a server.
func (l *loop) seek(p *pair) {
	if p.set.Kafka != nil && !l.findNode(p) {
		return
	}
	if p.set.session {
		// The pair's opening is complete, its timer off; its client's descriptor is
		// in the epoll set if p.watching says so; client.held has what was read
		// beyond the opening.
		l.handOff(p)
		return
	}
	p.state = stateDialing
	p.dial = l.newDial(l.now, p.set.ConnectTimeout.D())
	l.tryNext(p)
}

// picker chooses p's server.
func (p *pair) picker() *picker {
	switch {
	case p.kafka != nil:
		return p.nodePicker()
	case p.call != nil && p.call.picker != nil:
		return p.call.picker
	}
	return p.set.picker
}

// link is the id of the private endpoint that p came through; "": none.
func (p *pair) link() string {
	if p.call == nil {
		return ""
	}
	return p.call.link
}

// about is what the engine tells of p's client.
func (p *pair) about() engine.Caller {
	if p.call == nil {
		return engine.Caller{}
	}
	return engine.Caller{Peer: p.call.peer.full(), Link: p.call.link, Consumer: p.call.name, ServerName: p.call.serverName, TLS: p.call.tls}
}

// headerOnOff is why a connection with a PROXY header is refused where none is
// expected: as data, the server would misunderstand it.
const headerOnOff = "a PROXY header came, and the route takes none; write proxy_protocol: required"

// refuseLateHeader refuses a PROXY header that comes as a connection's first data.
func (l *loop) refuseLateHeader(p *pair) { l.refuse(p, proxyNotAllowed, headerText(p.set)) }

// headerText says why a PROXY header that comes as data is refused.
func headerText(set *settings) string {
	if set.Proxy.Mode == plan.ProxyRequired {
		return "another PROXY header came after a server was looked for; several have to come at once"
	}
	return headerOnOff
}

// refuse resets p, whose client has to know nothing, and says why.
func (l *loop) refuse(p *pair, why reason, detail string) {
	l.tell(p, why, detail)
	l.abort(p, why)
}

// tellEvery is how often a route says that it refuses for the same reason.
const tellEvery = 10 * time.Second

// tell logs why p is refused, or broken off if it has had a server. Whoever is
// refused may try thousands of times a second, so for each route and reason there
// is a line in tellEvery; the access log has them all.
func (l *loop) tell(p *pair, why reason, detail string) {
	p.mishap().lastErr = detail
	said := &p.route().said[why]
	now := int64(l.e.clock())
	if last := said.Load(); (last != 0 && now-last < int64(tellEvery)) || !said.CompareAndSwap(last, now) {
		return
	}
	args := []any{"route", p.route().name, "reason", string(reasons[why]), "why", detail, "client", p.clientAddr.full()}
	about := p.about()
	if about.Peer.IsValid() {
		args = append(args, "peer", about.Peer)
	}
	for _, a := range []struct{ key, value string }{
		{"link", about.Link}, {"consumer", about.Consumer}, {"server_name", about.ServerName},
	} {
		if a.value != "" {
			args = append(args, a.key, a.value)
		}
	}
	what := "a connection was refused"
	if p.connectTime > 0 {
		what = "a connection was broken off"
	}
	l.e.log.Warn(what, args...)
}
