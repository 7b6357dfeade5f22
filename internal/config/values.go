package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Listen is where connections are accepted: PORT, FROM-TO, ADDRESS:PORT,
// %INTERFACE:PORT or ADDRESS%INTERFACE:PORT.
type Listen struct {
	Addr      netip.Addr // zero: all addresses, IPv4 and IPv6
	Interface string     // "": any
	From, To  uint16     // inclusive; equal for a single port
}

// ParseListen reads a listen address.
func ParseListen(s string) (Listen, error) {
	host, ports := "", s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, ports = s[:i], s[i+1:]
	}
	l := Listen{}
	var err error
	if l.From, l.To, err = parsePorts(ports); err != nil {
		return l, fmt.Errorf("listen address %q: %w; write a port (1434), a range (9092-9094), ADDRESS:PORT or %%INTERFACE:PORT", s, err)
	}
	var named bool
	if host, l.Interface, named = cutInterface(host); named && !validInterface(l.Interface) {
		return l, fmt.Errorf("listen address %q: %q is not an interface name; write %%eth0:PORT", s, l.Interface)
	}
	if host == "" || host == "*" {
		return l, nil
	}
	bare, bracketed := host, false
	if inner, ok := strings.CutPrefix(host, "["); ok {
		bare, bracketed = strings.CutSuffix(inner, "]")
	}
	l.Addr, err = netip.ParseAddr(bare)
	switch {
	case err != nil || l.Addr.Is6() != bracketed:
		hint := "write an address of this machine, [IPv6]:PORT, or only the port for all of them"
		if validInterface(host) && strings.Trim(host, "0123456789.") != "" {
			hint = fmt.Sprintf("for an interface write %%%s:%s", host, ports)
		}
		return l, fmt.Errorf("listen address %q: %q is not an IP address; %s", s, host, hint)
	case l.Addr.Zone() != "":
		return l, fmt.Errorf("listen address %q: the interface stands inside the brackets; write [%s]%%%s:%s", s, l.Addr.WithZone(""), l.Addr.Zone(), ports)
	}
	return l, nil
}

// cutInterface splits HOST%INTERFACE. A percent sign within brackets belongs to
// the address.
func cutInterface(s string) (host, device string, found bool) {
	from := strings.LastIndexByte(s, ']') + 1
	i := strings.IndexByte(s[from:], '%')
	if i < 0 {
		return s, "", false
	}
	return s[:from+i], s[from+i+1:], true
}

// validInterface is the kernel's own rule (dev_valid_name: at most 15 bytes, no
// slash, colon or white space), of characters that are text.
func validInterface(s string) bool {
	return s != "" && len(s) <= 15 && s != "." && s != ".." &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%[]", r) })
}

func parsePorts(s string) (from, to uint16, err error) {
	lo, hi, isRange := strings.Cut(s, "-")
	if from, err = parsePort(lo); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return from, from, nil
	}
	if to, err = parsePort(hi); err != nil {
		return 0, 0, err
	}
	if to < from {
		return 0, 0, fmt.Errorf("the range ends before it starts (%d > %d)", from, to)
	}
	return from, to, nil
}

// Ports is a range of ports, inclusive.
type Ports struct{ From, To uint16 }

func parsePortRange(s string) (p Ports, err error) {
	if p.From, p.To, err = parsePorts(s); err != nil {
		return p, fmt.Errorf("ports %q: %w; write FROM-TO", s, err)
	}
	return p, nil
}

func (p Ports) String() string { return fmt.Sprintf("%d-%d", p.From, p.To) }

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' || s[0] == '0' { // 022 is 18 to YAML
		return 0, fmt.Errorf("%q is not a port (1 to 65535)", s)
	}
	return uint16(n), nil
}

func (l Listen) String() string {
	ports := strconv.Itoa(int(l.From))
	if l.To != l.From {
		ports += "-" + strconv.Itoa(int(l.To))
	}
	host := ""
	if l.Addr.IsValid() {
		host = l.Addr.String()
		if l.Addr.Is6() {
			host = "[" + host + "]"
		}
	}
	if l.Interface != "" {
		host += "%" + l.Interface
	}
	if host == "" {
		return ports
	}
	return host + ":" + ports
}

// Target is the place of a server: HOST:PORT, or HOST or HOST:+N for "the port
// the connection came in on" (plus N).
type Target struct {
	Host  string // a name (lower case) or an IP address
	Port  uint16 // 0: the port of the listener plus Shift
	Shift int
}

// ParseTarget reads a server's place.
func ParseTarget(s string) (Target, error) {
	host, port, err := splitTarget(s)
	if err != nil {
		return Target{}, fmt.Errorf("server %q: %w; write HOST:PORT, or HOST alone to keep the port the connection came in on", s, err)
	}
	t := Target{Host: host}
	switch {
	case port == "":
	case port[0] == '+' || port[0] == '-':
		n, err := strconv.Atoi(port)
		if err != nil || n < -65534 || n > 65534 {
			return t, fmt.Errorf("server %q: %q is not a port shift; write +N or -N", s, port)
		}
		t.Shift = n
	default:
		if t.Port, err = parsePort(port); err != nil {
			return t, fmt.Errorf("server %q: %w", s, err)
		}
	}
	return t, nil
}

func splitTarget(s string) (host, port string, err error) {
	if strings.Contains(s, "://") {
		return "", "", errors.New("a URL is not a server")
	}
	if strings.HasPrefix(s, "[") {
		h, rest, ok := strings.Cut(s[1:], "]")
		a, err := netip.ParseAddr(h)
		if !ok || err != nil || !a.Is6() || a.Zone() != "" || (rest != "" && rest[0] != ':') {
			return "", "", errors.New("the brackets do not hold an IPv6 address")
		}
		return a.String(), strings.TrimPrefix(rest, ":"), nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		return "", "", errors.New("an IPv6 address stands in brackets, such as [fd00::4]:1433")
	}
	host, port, found := strings.Cut(s, ":")
	if found && port == "" {
		return "", "", errors.New("the port is missing after the colon")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.String(), port, nil
	}
	if !validName(host) {
		return "", "", fmt.Errorf("%q is not a host name or an IP address", host)
	}
	return strings.ToLower(host), port, nil
}

// validName is RFC 1123 section 2.1 with the underscore that real zones have.
// An all-numeric last label would be a mistyped IPv4 address.
func validName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for _, c := range []byte(l) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	_, err := strconv.Atoi(labels[len(labels)-1])
	return err != nil
}

func (t Target) String() string {
	host := t.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	switch {
	case t.Port != 0:
		return host + ":" + strconv.Itoa(int(t.Port))
	case t.Shift != 0:
		return fmt.Sprintf("%s:%+d", host, t.Shift)
	}
	return host
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return a, fmt.Errorf("%q is not an IP address; write 10.0.0.4 or fd00::4", s)
	}
	return a.Unmap(), nil
}

// parseNetwork reads ADDRESS/BITS, or an address alone. Bits below the mask are
// a mistake of whoever wrote them.
func parseNetwork(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := parseAddr(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not a network; write 10.0.0.0/24 or an address", s)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, fmt.Errorf("%q is not a network; write 10.0.0.0/24 or fd00::/64", s)
	case p != p.Masked():
		return p, fmt.Errorf("network %q has bits outside its mask; write %s", s, p.Masked())
	}
	return p, nil
}

// Nameserver is the place of a DNS server; port 53 where none is written.
type Nameserver netip.AddrPort

// ParseNameserver reads ADDRESS or ADDRESS:PORT.
func ParseNameserver(s string) (Nameserver, error) {
	if a, err := netip.ParseAddr(s); err == nil && (a.Zone() == "" || validInterface(a.Zone())) {
		return Nameserver(netip.AddrPortFrom(a, 53)), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if zone := ap.Addr().Zone(); err != nil || ap.Port() == 0 || (zone != "" && !validInterface(zone)) {
		return Nameserver{}, fmt.Errorf("DNS server %q is not an IP address; write 10.0.0.2 or 10.0.0.2:53", s)
	}
	return Nameserver(ap), nil
}

func (n Nameserver) String() string {
	ap := netip.AddrPort(n)
	if ap.Port() == 53 {
		return ap.Addr().String()
	}
	return ap.String()
}

// parseDuration accepts Go's form without signs and fractions: 500ms, 3s, 1m30s.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	_, errInt := strconv.Atoi(s)
	if err != nil || errInt == nil || strings.ContainsAny(s, "+-.µun") {
		if errInt == nil {
			return 0, fmt.Errorf("duration %q has no unit; write %ss or %sms", s, s, s)
		}
		return 0, fmt.Errorf("%q is not a duration; write 500ms, 3s, 2m or 1h30m", s)
	}
	return d, nil
}

// FormatDuration writes d in the form the file uses: 90s as 1m30s, 1h0m0s as 1h,
// 1.5s as 1500ms. What is below a millisecond is cut off.
func FormatDuration(d time.Duration) string {
	if d%time.Second != 0 {
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText makes Ports a string in JSON.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Rate is a number of new connections in a time. Zero: no limit.
type Rate struct {
	N   int
	Per time.Duration // a second, a minute or an hour
}

var rateUnits = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}

// ParseRate reads N/s, N/m or N/h.
func ParseRate(s string) (Rate, error) {
	number, unit, _ := strings.Cut(s, "/")
	n, err := strconv.Atoi(number)
	if err != nil || rateUnits[unit] == 0 || strings.ContainsAny(number, "+-") {
		return Rate{}, fmt.Errorf("%q is not a rate; write 100/s, 30/m or 10/h", clip(s))
	}
	if n < 1 || n > 10_000_000 {
		return Rate{}, fmt.Errorf("rate %s is out of range; write 1 to 10000000", s)
	}
	return Rate{n, rateUnits[unit]}, nil
}

func (r Rate) String() string {
	for unit, per := range rateUnits {
		if r.Per == per {
			return strconv.Itoa(r.N) + "/" + unit
		}
	}
	return "off"
}

// MarshalText makes a Rate a string in JSON.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Size is a number of bytes.
type Size int

// ParseSize reads NKiB or NMiB.
func ParseSize(s string) (Size, error) {
	for unit, factor := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20} {
		number, found := strings.CutSuffix(s, unit)
		if !found {
			continue
		}
		n, err := strconv.Atoi(number)
		if err != nil || strings.ContainsAny(number, "+-") {
			break
		}
		if n < 1 || n > (1<<20)/factor {
			return 0, fmt.Errorf("size %s is out of range; write 1KiB to 1MiB", s)
		}
		return Size(n * factor), nil
	}
	return 0, fmt.Errorf("%q is not a size; write 32KiB or 1MiB", clip(s))
}

func (s Size) String() string {
	if s%(1<<20) == 0 && s > 0 {
		return strconv.Itoa(int(s)>>20) + "MiB"
	}
	return strconv.Itoa(int(s)>>10) + "KiB"
}

// parseWord reads the name of a route or consumer.
func parseWord(s string) (string, error) {
	if !routeNameRE.MatchString(s) {
		return "", fmt.Errorf("name %q: use letters, digits, dot, dash and underscore, at most 63, a letter or digit first", clip(s))
	}
	return s, nil
}

// parseToken reads a token of RFC 9110 section 5.6.2, which is the name of something.
func parseToken(what, s string) (string, error) {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("!#$%&'*+-.^_`|~", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return "", fmt.Errorf("%q is not %s; use letters, digits and dashes", clip(s), what)
	}
	return s, nil
}

// hostPattern is a host name, in lower case, or *. and one.
const hostPattern = `^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$`

// hostPort is a host name or address as the Host header has it, maybe with a port.
const hostPort = `^([A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$`

var hostPortRE = regexp.MustCompile(hostPort)

// parseHost reads what a Host header is to say. Anything else in it could end the
// header's line.
func parseHost(s string) (string, error) {
	if !hostPortRE.MatchString(s) {
		return "", fmt.Errorf("%q is not a host; write keep, server, or a name, maybe with a port", clip(s))
	}
	return s, nil
}
