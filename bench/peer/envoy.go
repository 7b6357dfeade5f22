package peer

import (
	"fmt"
	"strings"

	"midspan/bench/lab"
)

func envoyConfig(routes []Route, limits Limits) string {
	var b strings.Builder
	b.WriteString("static_resources:\n  listeners:\n")
	for _, r := range routes {
		fmt.Fprintf(&b, "  - name: r%d\n    address: { socket_address: { address: %s, port_value: %d } }\n", r.Port, lab.ForwarderIP, r.Port)
		b.WriteString(envoyListener[r.Mode])
		b.WriteString("      filters:\n")
		fmt.Fprintf(&b, strings.ReplaceAll(envoyFilter(r.Mode), "ROUTE", "r%[1]d"), r.Port)
	}
	b.WriteString("  clusters:\n")
	for _, r := range routes {
		host, port, _ := strings.Cut(r.To, ":")
		fmt.Fprintf(&b, `  - name: r%d
    type: STATIC
    connect_timeout: 3s
    circuit_breakers: { thresholds: [{ max_connections: %d, max_pending_requests: %d }] }
    load_assignment:
      cluster_name: r%d
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: %s, port_value: %s } } }
`, r.Port, limits.Conns, limits.Conns, r.Port, host, port)
	}
	return b.String()
}

// envoyListener is what comes between a listener's address and its filters.
var envoyListener = map[Mode]string{
	ModeTCP:  "    filter_chains:\n    - filter_chain_match: {}\n",
	ModeHTTP: "    filter_chains:\n    - filter_chain_match: {}\n",
	ModeSNI: `    listener_filters:
    - name: envoy.filters.listener.tls_inspector
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector
    filter_chains:
    - filter_chain_match: { server_names: [` + ServerName + `] }
`,
	ModeTLS: `    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_params: { tls_maximum_protocol_version: TLSv1_3 }
            tls_certificates: [{ certificate_chain: { filename: ` + pemFile + ` }, private_key: { filename: ` + pemFile + ` } }]
`,
}

func envoyFilter(m Mode) string {
	if m == ModeHTTP {
		return `      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ROUTE
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          route_config:
            virtual_hosts: [{ name: all, domains: ["*"], routes: [{ match: { prefix: "/" }, route: { cluster: ROUTE, timeout: 0s } }] }]
`
	}
	return `      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: ROUTE
          cluster: ROUTE
`
}
