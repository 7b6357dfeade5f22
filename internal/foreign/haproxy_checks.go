package foreign

import (
	"encoding/hex"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"midspan/internal/config"
)

// The lines of a check: http-check, tcp-check, and option httpchk.

// maxCheckText is how many characters a check may send or look for, as config
// has it.
const maxCheckText = 4096

// The status codes that a check can tell apart, as config has them.
const (
	firstStatus = 200
	lastStatus  = 599
)

// httpchk reads `option httpchk [METHOD] [URI] [VERSION]`.
func (h *haproxy) httpchk(p *proxy, s *stmt) {
	p.check.kind = config.At(checkHTTP, s.pos)
	x := &p.check.http
	x.method, x.path, x.host = config.At("OPTIONS", s.pos), config.At("/", s.pos), config.Field[string]{}
	switch len(s.words) {
	case 2:
	case 3:
		h.checkPath(p, s, s.word(2))
	default:
		x.method = config.At(s.arg(2), s.word(2).pos)
		h.checkPath(p, s, s.word(3))
	}
	// The version was also the way to send headers: HTTP/1.1\r\nHost:\ name
	_, headers, _ := strings.Cut(s.arg(4), "\r\n")
	for line := range strings.SplitSeq(headers, "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			h.checkHeader(p, s, s.word(4).pos, name, strings.TrimSpace(value))
		}
	}
}

func (h *haproxy) checkPath(p *proxy, s *stmt, uri word) {
	p.check.http.path = config.At(uri.text, uri.pos)
	if !strings.HasPrefix(uri.text, "/") || printable(uri.text) != uri.text || strings.Contains(uri.text, " ") {
		p.check.http.path.V = "/"
		h.note(s, "%s: %s is not a path that midspan's check can ask for; it asks for /", s, quote(uri.text))
	}
}

func (h *haproxy) checkHeader(p *proxy, s *stmt, pos config.Pos, name, value string) {
	plain := value != "" && printable(value) == value && !strings.ContainsAny(value, "%\t ")
	if strings.EqualFold(name, "Host") && plain {
		p.check.http.host = config.At(value, pos)
		return
	}
	h.note(s, "%s: the header %s is not carried over: midspan's check sends Host only", s, quote(name))
}

// httpCheckSend reads `http-check send [meth M] [uri U] [ver V] [hdr N V] [body B]`.
func (h *haproxy) httpCheckSend(p *proxy, s *stmt) {
	if p.check.kind.V != checkHTTP && !p.sec.option("httpchk") {
		h.needless(s, "without `option httpchk` it has no effect")
		return
	}
	for i := 2; i < len(s.words); i++ {
		switch w := s.word(i); w.text {
		case "meth":
			i++
			p.check.http.method = config.At(s.arg(i), s.word(i).pos)
		case "uri":
			i++
			h.checkPath(p, s, s.word(i))
		case "ver":
			i++
		case "hdr":
			h.checkHeader(p, s, w.pos, s.arg(i+1), s.arg(i+2))
			i += 2
		default:
			h.note(s, "%s: %s is not carried over: midspan's check is one plain GET", s, quote(strings.TrimSpace(w.text+" "+s.arg(i+1))))
			i++
		}
	}
}

// expected is the `[!] MATCH PATTERN` of an `expect` line, after its options.
func expected(s *stmt) (not bool, match string, pattern word) {
	i := 2
	for i+1 < len(s.words) && slices.Contains([]string{"min-recv", "comment", "ok-status", "error-status", "tout-status", "on-success", "on-error", "status-code"}, s.arg(i)) {
		i += 2
	}
	match = s.arg(i)
	if strings.HasPrefix(match, "!") {
		not = true
		if match = match[1:]; match == "" {
			i++
			match = s.arg(i)
		}
	}
	return not, match, s.word(i + 1)
}

// httpCheckExpect reads `http-check expect …`.
func (h *haproxy) httpCheckExpect(p *proxy, s *stmt) {
	x := &p.check.http
	if !p.ownExpect { // then those of its defaults do not count
		x.status, x.expect, p.ownExpect = nil, config.Field[string]{}, true
	}
	not, match, pattern := expected(s)
	switch match {
	case "status", "rstatus":
		up, why := statusUp(match, pattern.text)
		switch {
		case why != "":
			h.lost(s, why)
		case len(x.status) > 0:
			h.lost(s, "midspan's check has one set of codes, and an earlier line has it")
		default:
			if x.status = ranges(up, !not, s.pos); len(x.status) == 0 {
				h.lost(s, "no code from 200 to 599 would be up")
			}
		}
	case "string":
		if not || !utf8.ValidString(pattern.text) || pattern.text == "" || utf8.RuneCountInString(pattern.text) > maxCheckText || x.expect.Set() {
			h.lost(s, "midspan's check looks for one text that the body must have")
			return
		}
		x.expect = config.At(pattern.text, pattern.pos)
		if len(x.status) == 0 { // HAProxy looks at no code then
			x.status = []config.Field[config.StatusRange]{config.At(config.StatusRange{From: firstStatus, To: lastStatus}, s.pos)}
		}
	default:
		h.lost(s, "midspan's check looks at the code (`status`) and for a text in the body (`expect`)")
	}
	if len(x.status) == 1 && x.status[0].V == (config.StatusRange{From: 200, To: 399}) {
		x.status = nil // midspan's default
	}
}

// statusUp tells which codes a pattern is for.
func statusUp(match, pattern string) (up map[int]bool, why string) {
	up = map[int]bool{}
	if match == "rstatus" {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, quote(pattern) + " is not a regular expression that the importer can evaluate; write `status`"
		}
		for code := firstStatus; code <= lastStatus; code++ {
			up[code] = re.MatchString(strconv.Itoa(code))
		}
		return up, ""
	}
	for part := range strings.SplitSeq(pattern, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		lo, errLo := strconv.Atoi(from)
		hi, errHi := strconv.Atoi(to)
		if errLo != nil || errHi != nil {
			return nil, quote(pattern) + " is not a list of codes"
		}
		for code := max(lo, firstStatus); code <= min(hi, lastStatus); code++ {
			up[code] = true
		}
	}
	return up, ""
}

// ranges are the codes that are in up, or those that are not.
func ranges(up map[int]bool, is bool, pos config.Pos) (out []config.Field[config.StatusRange]) {
	for code := firstStatus; code <= lastStatus; code++ {
		if up[code] != is {
			continue
		}
		from := code
		for code < lastStatus && up[code+1] == is {
			code++
		}
		out = append(out, config.At(config.StatusRange{From: from, To: code}, pos))
	}
	return out
}

// tcpCheck reads `tcp-check …`: midspan's has one question and one answer.
func (h *haproxy) tcpCheck(p *proxy, s *stmt) {
	x := &p.check.raw
	if !p.ownTCPCheck { // then those of its defaults do not count
		*x, p.ownTCPCheck = rawCheck{}, true
	}
	if p.check.kind.V != checkRaw && !p.sec.option("tcp-check") {
		h.needless(s, "without `option tcp-check` it has no effect")
		return
	}
	if x.expect.Set() && s.arg(1) != "comment" {
		h.lost(s, "midspan's check has one question and one answer")
		return
	}
	switch s.arg(1) {
	case "comment":
	case "connect":
		h.tcpCheckConnect(x, s)
	case "send", "send-lf":
		h.tcpCheckText(s, &x.send, x.send.V, s.arg(2), s.arg(1) == "send-lf")
	case "send-binary":
		h.tcpCheckHex(s, &x.send, x.send.V, s.arg(2))
	case "expect":
		not, match, pattern := expected(s)
		switch {
		case match == "string" && !not:
			h.tcpCheckText(s, &x.expect, "", pattern.text, false)
		case match == "binary" && !not:
			h.tcpCheckHex(s, &x.expect, "", pattern.text)
		default:
			h.lost(s, "midspan's check looks for bytes that the answer must have")
		}
	default:
		h.lost(s, "midspan's check sends bytes and waits for some")
	}
}

// tcpCheckConnect reads `tcp-check connect [port N] [ssl] …`.
func (h *haproxy) tcpCheckConnect(x *rawCheck, s *stmt) {
	for i := 2; i < len(s.words); i++ {
		switch w := s.word(i); w.text {
		case "port":
			i++
			if n, err := strconv.Atoi(s.arg(i)); err == nil && n >= 1 && n <= 65535 && !x.port.Set() {
				x.port = config.At(n, w.pos)
			} else {
				h.note(s, "%s: %s is not carried over: midspan tests one port", s, quote("port "+s.arg(i)))
			}
		case "ssl":
			x.tls = config.At(true, w.pos)
		case "default", "linger":
		case "comment", "sni", "alpn", "proto", "addr":
			i++
			h.note(s, "%s: %s is not carried over", s, quote(w.text+" "+s.arg(i)))
		default:
			h.note(s, "%s: %s is not carried over", s, quote(w.text))
		}
	}
}

// tcpCheckText appends text, one character for each byte.
func (h *haproxy) tcpCheckText(s *stmt, at *config.Field[string], before, text string, formatted bool) {
	all := before + latin1(text)
	if text == "" || utf8.RuneCountInString(all) > maxCheckText || (formatted && strings.Contains(text, "%")) {
		h.lost(s, "midspan's check has 1 to 4096 bytes that are written here")
		return
	}
	*at = config.At(all, s.pos)
}

func (h *haproxy) tcpCheckHex(s *stmt, at *config.Field[string], before, digits string) {
	data, err := hex.DecodeString(digits)
	if err != nil {
		h.lost(s, quote(digits)+" is not hexadecimal")
		return
	}
	h.tcpCheckText(s, at, before, string(data), false)
}

// latin1 is s with one character for each byte, as the file writes bytes.
func latin1(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}
