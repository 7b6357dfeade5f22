package foreign

import (
	"slices"
	"strings"

	"midspan/internal/config"
)

// resolvers carries over the name servers of a `resolvers` section. midspan
// has one `dns` for all routes.
func (h *haproxy) resolvers(sec *section) {
	h.carry(sec.head)
	before := len(h.file.DNS.Servers)
	for _, s := range sec.body {
		switch s.arg(0) {
		case "nameserver":
			h.nameserver(s)
		case "parse-resolv-conf":
			if sec.has("nameserver") {
				h.lost(s, "when `dns` names servers, midspan asks those only")
			} else {
				h.carry(s) // midspan's default
			}
		case "hold":
			h.needless(s, "midspan looks a name up again by the TTL of the answer, and keeps the last good addresses while DNS fails")
		case "timeout", "resolve_retries":
			h.needless(s, "`dns: { timeout: … }` is for one question (2s), and then the next server is asked")
		case "accepted_payload_size":
			h.needless(s, "midspan repeats a question over TCP when the answer is too long")
		}
	}
	if len(h.file.DNS.Servers) > before {
		h.note(sec.head, "%s becomes `dns`, which midspan has once, for the names of all routes", sec.head)
	}
}

// nameserver reads `nameserver NAME ADDRESS[:PORT]`.
func (h *haproxy) nameserver(s *stmt) {
	if !h.known(s) {
		return
	}
	text := s.arg(2)
	for _, family := range []string{"ipv4@", "ipv6@", "udp4@", "udp6@", "udp@"} {
		text = strings.TrimPrefix(text, family)
	}
	ns, err := nameserver(text)
	if err != nil {
		h.lost(s, "midspan asks DNS servers at an IP address, by UDP and when needed by TCP")
		return
	}
	h.carry(s)
	known := func(f config.Field[config.Nameserver]) bool { return f.V == ns }
	if !slices.ContainsFunc(h.file.DNS.Servers, known) {
		h.file.DNS.Servers = append(h.file.DNS.Servers, config.At(ns, s.pos))
	}
}
