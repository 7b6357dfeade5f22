package foreign

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"midspan/internal/config"
)

// The functions here carry over one statement each; see rule.do.

// connsMax is the range of a number of connections in the file.
const connsMax = 10_000_000

func (h *haproxy) globalMaxconn(_ *proxy, s *stmt) {
	h.file.MaxConnections = h.conns(s, s.word(1))
}

// conns is a number of connections. 0 is HAProxy's word for its default.
func (h *haproxy) conns(s *stmt, w word) config.Field[int] {
	n, ok := h.number(s, w, 0)
	if !ok || n == 0 {
		return config.Field[int]{}
	}
	return config.At(h.withinInt(w.pos, n, 1, connsMax), w.pos)
}

// number is a word that HAProxy wants to be a number, at least lo.
func (h *haproxy) number(s *stmt, w word, lo int) (int, bool) {
	n, err := strconv.Atoi(w.text)
	if err != nil || n < lo {
		h.problem(w.pos, "%s: %s is not a number from %d", s, quote(w.text), lo)
		return 0, false
	}
	return n, true
}

// time is a word that HAProxy wants to be a time; bare is its unit without a
// suffix.
func (h *haproxy) time(s *stmt, w word, bare time.Duration) (time.Duration, bool) {
	d, ok := haproxyTime(w.text, bare)
	if !ok {
		h.problem(w.pos, "%s: %s is not a time; HAProxy's are 500ms, 30s, 5m, 1h, 1d", s, quote(w.text))
	}
	return d, ok
}

func (h *haproxy) hardStopAfter(_ *proxy, s *stmt) {
	if d, ok := h.time(s, s.word(1), time.Millisecond); ok {
		h.file.Drain.Timeout = config.At(h.within(s.word(1).pos, d, 0, 7*24*time.Hour), s.word(1).pos)
	}
}

func (h *haproxy) grace(_ *proxy, s *stmt) {
	if d, ok := h.time(s, s.word(1), time.Millisecond); ok {
		h.file.Drain.Detection = config.At(h.within(s.word(1).pos, d, 0, time.Hour), s.word(1).pos)
	}
}

func (h *haproxy) setMode(p *proxy, s *stmt) {
	switch s.arg(1) {
	case "tcp", "http":
		p.mode = config.At(s.arg(1), s.pos)
	default:
		h.lost(s, "midspan's routes are TCP")
	}
}

// balances are HAProxy's algorithms that midspan has, by its own names.
var balances = map[string]string{
	"roundrobin": "roundrobin", "static-rr": "roundrobin", "leastconn": "leastconn", "source": "source", "first": "first",
}

func (h *haproxy) setBalance(p *proxy, s *stmt) {
	name, _, _ := strings.Cut(s.arg(1), "(")
	is, known := balances[name]
	switch {
	case known:
	case name == "random":
		is = "leastconn"
		h.note(s, "%s is carried over as `balance: leastconn`: random picks the less loaded of the servers that it draws", s)
	default:
		is = "roundrobin"
		h.note(s, "%s is carried over as `balance: roundrobin`: midspan has roundrobin, leastconn, source and first", s)
	}
	p.balance = config.At(is, s.word(1).pos)
}

func (h *haproxy) setMaxconn(p *proxy, s *stmt) { p.maxconn = h.conns(s, s.word(1)) }

func (h *haproxy) setBackend(p *proxy, s *stmt) { p.backend = config.At(s.arg(1), s.pos) }

// useBackend keeps rules with a condition until the route is made. There is
// nothing to do for one without: front sees it.
func (h *haproxy) useBackend(p *proxy, s *stmt) {
	switch {
	case dynamic(s):
		h.lost(s, "variables are not evaluated, so these connections go where the rules after it, or the default, lead; write `use_backend NAME if …` for each")
	case p.always != nil && p.always.pos.Line < s.pos.Line:
		h.needless(s, "an earlier `use_backend` without a condition takes every connection")
	case p.always != s:
		p.uses = append(p.uses, s)
	}
}

func (h *haproxy) useServer(p *proxy, s *stmt) { p.uses = append(p.uses, s) }

// setBase reads ca-base and crt-base.
func (h *haproxy) setBase(_ *proxy, s *stmt) {
	if s.arg(0) == "ca-base" {
		h.caBase = s.arg(1)
	} else {
		h.crtBase = s.arg(1)
	}
}

func (h *haproxy) setVerify(_ *proxy, s *stmt) { h.noVerify = s.arg(1) == "none" }

// setBindOptions reads ssl-default-bind-options, of which the oldest version
// of TLS is carried over.
func (h *haproxy) setBindOptions(_ *proxy, s *stmt) {
	for i, w := range s.words {
		if w.text == "no-tlsv12" || w.text == "force-tlsv13" || (w.text == "ssl-min-ver" && strings.EqualFold(s.arg(i+1), "TLSv1.3")) {
			h.minTLS = config.At(tls13, w.pos)
			return
		}
	}
	h.needless(s, whyTLS)
}

// setSource reads `source ADDRESS [usesrc …] [interface …]`.
func (h *haproxy) setSource(p *proxy, s *stmt) {
	if len(s.words) > 2 || !h.sourceAddr(s.word(1), &p.server.source) {
		h.lost(s, "`source` of a route is one of this machine's addresses, and servers see it as the client's; `send_proxy` tells them the client's own")
	}
}

// setCookie reads `cookie NAME insert …`.
func (h *haproxy) setCookie(p *proxy, s *stmt) {
	if !slices.ContainsFunc(s.words, func(w word) bool { return w.text == "insert" }) {
		h.lost(s, "midspan sets a cookie of its own (`http: { sticky: NAME }`) and changes none of the servers'")
		return
	}
	if why := notAHeader(s.arg(1)); why != "" {
		h.lost(s, why)
		return
	}
	p.cookie = config.At(s.arg(1), s.pos)
	h.note(s, "%s is carried over as `sticky: %s`: the values are midspan's own, so clients that have HAProxy's choose a server anew", s, printable(s.arg(1)))
}

// setForwardfor reads `option forwardfor [except NET] [header NAME] [if-none]`.
func (h *haproxy) setForwardfor(p *proxy, s *stmt) {
	p.forwardfor = config.At(true, s.pos)
	if len(s.words) > 2 {
		h.note(s, "%s: %s is not carried over: midspan adds to X-Forwarded-For of every request", s, quote(phrase(s.words[2:])))
	}
}

func (h *haproxy) setLog(p *proxy, s *stmt) {
	p.log = config.At(s.arg(1), s.pos)
	if s.arg(1) != "tcplog" {
		h.note(s, "%s is carried over as `log: tcplog`: a TCP route has no HTTP fields to log", s)
	}
}

// keepaliveIsOn carries over what is midspan's default anyway.
func keepaliveIsOn(*haproxy, *proxy, *stmt) {}

// keepaliveTime is for times that are in seconds without a suffix.
func keepaliveTime(at func(*config.Keepalive) *config.Field[time.Duration]) func(*haproxy, *proxy, *stmt) {
	return func(h *haproxy, p *proxy, s *stmt) {
		w := s.word(1)
		if d, ok := h.time(s, w, time.Second); ok {
			d = h.within(w.pos, max(d, time.Second), time.Second, 9*time.Hour)
			*at(h.leg(p, s)) = config.At(d, w.pos)
		}
	}
}

func (h *haproxy) keepaliveCount(p *proxy, s *stmt) {
	w := s.word(1)
	if n, ok := h.number(s, w, 1); ok {
		h.leg(p, s).Count = config.At(h.withinInt(w.pos, n, 1, 127), w.pos)
	}
}

// leg is where the keepalive of the client's or the server's side is kept.
func (h *haproxy) leg(p *proxy, s *stmt) *config.Keepalive {
	if strings.HasPrefix(s.arg(0), "cli") {
		return &p.clientKeepalive
	}
	return &p.serverKeepalive
}

func timeout(at func(*timeouts) *config.Field[time.Duration]) func(*haproxy, *proxy, *stmt) {
	return func(h *haproxy, p *proxy, s *stmt) {
		if d, ok := h.time(s, s.word(2), time.Millisecond); ok {
			*at(&p.timeouts) = config.At(d, s.pos)
		}
	}
}

func (h *haproxy) timeoutConnect(p *proxy, s *stmt) {
	timeout(func(t *timeouts) *config.Field[time.Duration] { return &t.connect })(h, p, s)
	h.note(s, "%s is for each attempt in HAProxy; midspan's connect_timeout is for all attempts of a connection together", s)
}

// noOption reads `no option X`.
func (h *haproxy) noOption(_ *proxy, s *stmt) {
	switch s.arg(2) {
	case "tcpka", "clitcpka", "srvtcpka":
		h.lost(s, "keepalive stays on, since Private Link cuts a flow that is idle for 240 s; `keepalive: off` switches it off")
	default:
		h.needless(s, "the option has no effect here either")
	}
}
