package peer

import (
	"fmt"
	"strings"
)

func ioCopyConfig(routes []Route, _ Limits) string {
	var b strings.Builder
	for _, r := range routes {
		fmt.Fprintf(&b, "%s %s\n", r.Listen(), r.To)
	}
	return b.String()
}

func midspanConfig(engine string) func([]Route, Limits) string {
	return func(routes []Route, _ Limits) string {
		var b strings.Builder
		b.WriteString("log: off\n")
		if engine != Relay { // the default
			fmt.Fprintf(&b, "defaults: { engine: %s }\n", engine)
		}
		b.WriteString("routes:\n")
		for _, r := range routes {
			fmt.Fprintf(&b, "  r%d: { %slisten: %q, to: %s }\n", r.Port, midspanMode[r.Mode], r.Listen(), midspanTo(r))
		}
		return b.String()
	}
}

// midspanMode are a route's keys beside listen and to.
var midspanMode = map[Mode]string{
	ModeSNI:  "mode: sni, ",
	ModeHTTP: "mode: http, ",
	ModeTLS:  "tls: " + pemFile + ", ",
	// Clients of the bench speak with this one broker, and it says of no other.
	ModeKafka: "mode: kafka, advertise: { host: kafka.example, ports: 19100-19101 }, kafka: { discover: off }, check: off, ",
	ModeProxy: "proxy_protocol: required, send_proxy: v2, ",
}

func midspanTo(r Route) string {
	if r.Mode == ModeSNI {
		return fmt.Sprintf("{ %s: %q }", ServerName, r.To)
	}
	return fmt.Sprintf("%q", r.To)
}
