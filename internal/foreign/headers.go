package foreign

import (
	"regexp"
	"slices"
	"strings"

	"midspan/internal/config"
)

// framing are the headers that frame messages, which plan refuses to have
// changed.
var framing = []string{"connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "proxy-connection"}

var tokenRE = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// notAHeader is why midspan cannot change a header of that name, or "".
func notAHeader(name string) string {
	switch lower := strings.ToLower(name); {
	case !tokenRE.MatchString(name):
		return quote(name) + " is not the name of a header"
	case lower == "host":
		return "the Host header is set by `http: { host: … }`"
	case slices.Contains(framing, lower):
		return "the header frames the message and is midspan's own"
	}
	return ""
}

// setHeader adds a change of a header to h; the later one of a name wins. why
// is why it cannot.
func setHeader(h *config.Headers, name, value string, pos config.Pos) (why string) {
	if why = notAHeader(name); why != "" {
		return why
	}
	if !plainText(value) {
		return quote(value) + " is not a plain value"
	}
	same := func(f config.Field[string]) bool { return strings.EqualFold(f.V, name) }
	h.Set = slices.DeleteFunc(h.Set, func(x config.Header) bool { return same(x.Name) })
	h.Remove = slices.DeleteFunc(h.Remove, same)
	h.Set = append(h.Set, config.Header{Name: config.At(name, pos), Value: config.At(value, pos)})
	return ""
}

// keepOut has a header removed that servers get from the proxy, and that midspan
// cannot set: what a client claims in it must not take its place. It returns what to
// say of that.
func keepOut(h *config.Headers, name string, pos config.Pos) (also string) {
	switch strings.ToLower(name) {
	case "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host": // these are for `forwarded`
		return ""
	}
	if slices.ContainsFunc(h.Set, func(x config.Header) bool { return strings.EqualFold(x.Name.V, name) }) || removeHeader(h, name, pos) != "" {
		return ""
	}
	return "; what clients send in it is taken out"
}

// removeHeader adds the removal of a header to h.
func removeHeader(h *config.Headers, name string, pos config.Pos) (why string) {
	if why = notAHeader(name); why != "" {
		return why
	}
	same := func(f config.Field[string]) bool { return strings.EqualFold(f.V, name) }
	h.Set = slices.DeleteFunc(h.Set, func(x config.Header) bool { return same(x.Name) })
	if !slices.ContainsFunc(h.Remove, same) {
		h.Remove = append(h.Remove, config.At(name, pos))
	}
	return ""
}
