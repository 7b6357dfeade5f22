package foreign

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"midspan/internal/config"
)

// within is d in the range of a setting of the file, in whole milliseconds.
func (l *ledger) within(pos config.Pos, d, lo, hi time.Duration) time.Duration {
	fit := min(max(d, lo), hi)
	if rest := fit % time.Millisecond; rest != 0 {
		fit += time.Millisecond - rest
	}
	if fit != d {
		l.notes.Addf(pos, "%s is carried over as %s: the setting goes from %s to %s, in milliseconds", d, config.FormatDuration(fit), config.FormatDuration(lo), config.FormatDuration(hi))
	}
	return fit
}

// withinInt is within for numbers.
func (l *ledger) withinInt(pos config.Pos, n, lo, hi int) int {
	fit := min(max(n, lo), hi)
	if fit != n {
		l.notes.Addf(pos, "%d is carried over as %d: the setting goes from %d to %d", n, fit, lo, hi)
	}
	return fit
}

// unit is a suffix of a time and what it stands for.
type unit struct {
	suffix string
	d      time.Duration
}

// Longer suffixes stand before those that they end with.
var (
	haproxyUnits = []unit{{"us", time.Microsecond}, {"ms", time.Millisecond}, {"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}}
	nginxUnits   = []unit{{"ms", time.Millisecond}, {"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}, {"w", 7 * 24 * time.Hour}, {"M", 30 * 24 * time.Hour}, {"y", 365 * 24 * time.Hour}}
)

// maxTime keeps sums of durations from overflowing.
const maxTime = 100 * 365 * 24 * time.Hour

// haproxyTime reads "30s", and "30" in the unit bare.
func haproxyTime(s string, bare time.Duration) (time.Duration, bool) {
	d, rest, ok := leadingTime(s, haproxyUnits, bare)
	return d, ok && rest == ""
}

// nginxTime reads "30s", "1h30m" and "30", which is in seconds.
func nginxTime(s string) (time.Duration, bool) {
	total := time.Duration(0)
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimLeft(s, " ") {
		d, rest, ok := leadingTime(s, nginxUnits, time.Second)
		if !ok || total+d > maxTime {
			return 0, false
		}
		total, s = total+d, rest
		if s == "" {
			return total, true
		}
	}
	return 0, false
}

// leadingTime reads a number and a unit at the start of s.
func leadingTime(s string, units []unit, bare time.Duration) (d time.Duration, rest string, ok bool) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if err != nil {
		return 0, s, false
	}
	of := bare
	rest = s[digits:]
	for _, u := range units {
		if strings.HasPrefix(rest, u.suffix) {
			of, rest = u.d, rest[len(u.suffix):]
			break
		}
	}
	if n > int64(maxTime/of) {
		return 0, s, false
	}
	return time.Duration(n) * of, rest, true
}

// target is a host and a port ("", +N: the listener's) as a Target.
func target(host, port string) (config.Target, error) {
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		host = "[" + host + "]"
	}
	if port != "" {
		host += ":" + port
	}
	t, err := config.ParseTarget(host)
	if err == nil && !writable(t, config.ParseTarget) {
		err = fmt.Errorf("server %q: %q is not a host name or an IP address", host, t.Host)
	}
	return t, err
}

// writable tells whether the file can have v: written and read again it is the
// same, and it is plain text. A name from a foreign file may have any bytes.
func writable[T interface {
	comparable
	String() string
}](v T, parse func(string) (T, error)) bool {
	text := v.String()
	again, err := parse(text)
	return err == nil && again == v && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// nameserver reads the address of a DNS server, [::1] also without a port.
func nameserver(s string) (config.Nameserver, error) {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	ns, err := config.ParseNameserver(s)
	if err == nil && !writable(ns, config.ParseNameserver) {
		err = fmt.Errorf("%q is not an IP address", s)
	}
	return ns, err
}

// splitPort cuts host:port at the last colon that is not inside brackets, as
// HAProxy and iptables do also for IPv6 addresses without brackets.
func splitPort(s string) (host, port string, found bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || i < strings.LastIndexByte(s, ']') {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// hostName is the first label of a host name, or "" for an IP address.
func hostName(t config.Target) string {
	if strings.Contains(t.Host, ":") || strings.Trim(t.Host, "0123456789.") == "" {
		return ""
	}
	first, _, _ := strings.Cut(t.Host, ".")
	return first
}
