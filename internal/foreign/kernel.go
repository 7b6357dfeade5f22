package foreign

import (
	"net/netip"
	"slices"
	"strings"

	"midspan/internal/config"
)

// What a midspan.yaml calls them; plan has the table of what each can do.
const (
	engineKernel = "nft"
	modeUDP      = "udp"
)

const (
	// whyKernel is what the importers of kernel forwarding say, once.
	whyKernel = "the routes stay in the kernel (`engine: nft`), which sends no keepalives, and Private Link cuts a flow that is idle for 240s: set them in the clients, or write `engine: relay`"
	// whyNoUDP is why datagrams do not go through the relay.
	whyNoUDP = "midspan forwards UDP in the kernel only"
)

// inKernel gives the routes the engine of the input, the kernel's, where it can
// carry them. It is for importers of kernel forwarding, once all routes are made.
func (b *builder) inKernel() {
	tcp := false
	for i := range b.file.Routes {
		r := &b.file.Routes[i]
		why := notInKernel(r)
		switch {
		case why == "":
			r.Engine = config.At(engineKernel, r.Name.Pos)
			tcp = tcp || r.Mode.V != modeUDP
		case r.Mode.V == modeUDP:
			b.notes.Addf(r.Name.Pos, "route %s is not carried over: %s, and %s", r.Name.V, whyNoUDP, why)
		default:
			b.notes.Addf(r.Name.Pos, "route %s leaves the kernel and goes through the relay: %s; rules of chain FORWARD do not hold for it", r.Name.V, why)
		}
	}
	b.file.Routes = slices.DeleteFunc(b.file.Routes, func(r config.Route) bool { return r.Mode.V == modeUDP && !r.Engine.Set() })
	if tcp {
		b.notes.Addf(b.file.Routes[0].Name.Pos, "%s", whyKernel)
	}
}

// notInKernel is why the kernel cannot carry r, by plan's rules; "": it can. Of
// names, only localhost is known here.
func notInKernel(r *config.Route) string {
	const loopback = "the kernel forwards nothing from or to loopback addresses"
	for _, l := range r.Listen {
		if l.V.Addr.IsLoopback() || l.V.Interface == "lo" {
			return loopback
		}
	}
	for _, s := range r.To {
		a, err := netip.ParseAddr(s.Target.V.Host)
		switch {
		case err == nil && a.IsLoopback(), strings.EqualFold(s.Target.V.Host, "localhost"):
			return loopback
		case err != nil:
			continue
		}
		for _, l := range r.Listen {
			if l.V.Addr.IsValid() && l.V.Addr.Is4() != a.Is4() {
				return "the kernel does not translate between IPv4 and IPv6"
			}
		}
	}
	return ""
}
