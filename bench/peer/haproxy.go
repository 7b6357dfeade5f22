package peer

import (
	"fmt"
	"strings"
)

func haproxyConfig(options string) func([]Route, Limits) string {
	return func(routes []Route, limits Limits) string {
		var b strings.Builder
		fmt.Fprintf(&b, "global\n  maxconn %d\n", limits.Conns)
		if options != "" {
			// The default, a quarter of maxconn, needs more files than there may be.
			fmt.Fprintf(&b, "  maxpipes %d\n", min(1000, limits.Conns/16))
		}
		b.WriteString("\ndefaults\n  mode tcp\n  timeout connect 3s\n  timeout client 1h\n  timeout server 1h\n" + options)
		for _, r := range routes {
			haproxyRoute(&b, r)
		}
		return b.String()
	}
}

func haproxyRoute(b *strings.Builder, r Route) {
	bind, server, more := "", "", ""
	switch r.Mode {
	case ModeSNI:
		fmt.Fprintf(b, "\nfrontend r%d\n  bind %s\n  tcp-request inspect-delay 5s\n  tcp-request content accept if { req.ssl_hello_type 1 }\n"+
			"  use_backend b%[1]d if { req.ssl_sni -i %[3]s }\n\nbackend b%[1]d\n  server target %[4]s\n", r.Port, r.Listen(), ServerName, r.To)
		return
	case ModeHTTP:
		more = "  mode http\n"
	case ModeTLS:
		bind = " ssl crt " + pemFile
	case ModeProxy:
		bind, server = " accept-proxy", " send-proxy-v2"
	}
	fmt.Fprintf(b, "\nlisten r%d\n%s  bind %s%s\n  server target %s%s\n", r.Port, more, r.Listen(), bind, r.To, server)
}
