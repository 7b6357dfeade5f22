package web

import "strings"

// cookieIn finds a cookie in a Cookie field (RFC 6265, section 4.2); "": it is
// not there.
func cookieIn(field, name string) string {
	for field != "" {
		var pair string
		pair, field, _ = strings.Cut(field, ";")
		if k, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && k == name {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}
