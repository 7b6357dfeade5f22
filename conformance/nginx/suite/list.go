package main

// verdict is how a file ends.
type verdict string

// The verdicts.
const (
	passes  verdict = "passes"
	skipped verdict = "skipped" // by its own rules, because -V or a refused directive says that something is not there
	fails   verdict = "fails"
)

// entry is what is known of one file.
type entry struct {
	file    string
	verdict verdict
	// judges says, of a file that passes, what it judges: see the kinds.
	judges kind
	why    string   // of one that does not pass; of one that does, what is to know
	env    []string // the file is run with these in its environment
	never  bool     // not run unless asked for: it cannot pass, and waits long
}

// kind is whose work a file that passes judges.
type kind string

// The kinds. In all of them the bytes go through midspan's relay.
const (
	ofMidspan kind = "midspan"        // forwarding, TLS, limits, balancing, or what records tell
	ofFront   kind = "front"          // mostly variables, which the front works out, over plain forwarding
	ofBridge  kind = "front's bridge" // Unix sockets, which the front has, around midspan's forwarding
)

// find is the entry of a file; nil: there is none.
func find(file string) *entry {
	for i := range list {
		if list[i].file == file {
			return &list[i]
		}
	}
	return nil
}

const (
	noUDP     = "the relay forwards no datagrams; the kernel engine does, but not on loopback"
	noRates   = "proxy_download_rate, proxy_upload_rate: midspan does not limit bytes a second"
	noOpenSSL = "asks for OpenSSL, which -V does not claim: midspan's TLS is Go's"
	noService = "SRV records (`service=`) are not looked up, and refused"
)

// list is every stream file of the suite, in the order of their names.
var list = []entry{
	{file: "stream_access.t", verdict: passes, judges: ofMidspan, why: "`allow` by IPv4 and IPv6; whether Unix sockets may is worked out by the front, whose bridge they come over"},
	{file: "stream_access_log.t", verdict: fails, why: noRates},
	{file: "stream_access_log_escape.t", verdict: passes, judges: ofFront},
	{file: "stream_access_log_none.t", verdict: passes, judges: ofFront},
	{file: "stream_error_log.t", verdict: passes, judges: ofFront},
	{file: "stream_geo.t", verdict: passes, judges: ofFront},
	{file: "stream_geo_binary.t", verdict: passes, judges: ofFront, env: []string{"TEST_NGINX_UNSAFE=1"}, why: "run as unsafe, for its length"},
	{file: "stream_geo_ipv6.t", verdict: passes, judges: ofFront},
	{file: "stream_geo_unix.t", verdict: passes, judges: ofFront},
	{file: "stream_geoip.t", verdict: skipped, why: "no GeoIP database is read"},
	{file: "stream_limit_conn.t", verdict: fails, why: "a zone that servers share: midspan's `per_source` counts for each route"},
	{file: "stream_limit_conn_complex.t", verdict: passes, judges: ofMidspan},
	{file: "stream_limit_conn_dry_run.t", verdict: fails, why: "limit_conn_dry_run, and a zone that servers share"},
	{file: "stream_limit_rate.t", verdict: fails, why: noRates},
	{file: "stream_limit_rate2.t", verdict: fails, why: noRates},
	{file: "stream_map.t", verdict: passes, judges: ofFront},
	{file: "stream_pass.t", verdict: skipped, why: "`pass` hands a connection to another module of nginx"},
	{file: "stream_proxy.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_bind.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_complex.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_half_close.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_next_upstream.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_protocol.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_protocol2_tlv.t", verdict: fails, why: "its header has a wrong CRC-32C, which midspan refuses, as the protocol's text asks (section 2.2.3); nginx does not look"},
	{file: "stream_proxy_protocol_ipv6.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_protocol_ssl.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_ssl.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_ssl_alpn.t", verdict: skipped, why: "proxy_ssl_alpn is refused: servers are offered what the client has agreed on"},
	{file: "stream_proxy_ssl_certificate.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_ssl_certificate_cache.t", verdict: skipped, why: noOpenSSL},
	{file: "stream_proxy_ssl_certificate_vars.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_ssl_conf_command.t", verdict: skipped, why: noOpenSSL},
	{file: "stream_proxy_ssl_name.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_ssl_name_complex.t", verdict: passes, judges: ofMidspan},
	{file: "stream_proxy_ssl_verify.t", verdict: fails, why: "one certificate has its name as a common name only, which Go does not accept (RFC 9525)"},
	{file: "stream_realip.t", verdict: passes, judges: ofMidspan},
	{file: "stream_realip_hostname.t", verdict: passes, judges: ofBridge},
	{file: "stream_resolver.t", verdict: fails, why: "proxy_next_upstream_tries counts an address that an answer has twice"},
	{file: "stream_server_name.t", verdict: passes, judges: ofFront, why: "TLS and the client's name are midspan's"},
	{file: "stream_set.t", verdict: passes, judges: ofFront},
	{file: "stream_split_clients.t", verdict: passes, judges: ofFront},
	{file: "stream_ssl.t", verdict: passes, judges: ofMidspan, why: "private keys are decrypted by the front"},
	{file: "stream_ssl_alpn.t", verdict: passes, judges: ofMidspan},
	{file: "stream_ssl_certificate.t", verdict: skipped, why: noOpenSSL},
	{file: "stream_ssl_certificate_cache.t", verdict: skipped, why: noOpenSSL},
	{file: "stream_ssl_conf_command.t", verdict: skipped, why: noOpenSSL},
	{file: "stream_ssl_ocsp.t", verdict: skipped, why: "OCSP is refused: midspan asks nobody about certificates"},
	{file: "stream_ssl_preread.t", verdict: passes, judges: ofMidspan, why: "servers by name, in `mode: sni`"},
	{file: "stream_ssl_preread_alpn.t", verdict: fails, why: "servers are not chosen by ALPN"},
	{file: "stream_ssl_preread_protocol.t", verdict: passes, judges: ofFront},
	{file: "stream_ssl_realip.t", verdict: passes, judges: ofMidspan},
	{file: "stream_ssl_reject_handshake.t", verdict: passes, judges: ofMidspan},
	{file: "stream_ssl_session_reuse.t", verdict: passes, judges: ofMidspan, why: "all sessions are in tickets, also those that nginx would keep itself"},
	{file: "stream_ssl_sni_protocols.t", verdict: skipped, why: noOpenSSL},
	{file: "stream_ssl_stapling.t", verdict: skipped, why: "OCSP stapling is refused"},
	{file: "stream_ssl_variables.t", verdict: passes, judges: ofMidspan},
	{file: "stream_ssl_verify_client.t", verdict: fails, why: "ssl_verify_client optional_no_ca"},
	{file: "stream_status_variable.t", verdict: passes, judges: ofMidspan},
	{file: "stream_tcp_nodelay.t", verdict: passes, judges: ofMidspan},
	{file: "stream_udp_limit_conn.t", verdict: fails, never: true, why: noUDP},
	{file: "stream_udp_limit_rate.t", verdict: fails, never: true, why: noUDP},
	{file: "stream_udp_proxy.t", verdict: fails, never: true, why: noUDP},
	{file: "stream_udp_proxy_requests.t", verdict: fails, never: true, why: noUDP},
	{file: "stream_udp_stream.t", verdict: fails, never: true, why: noUDP},
	{file: "stream_udp_upstream.t", verdict: fails, never: true, why: noUDP},
	{file: "stream_udp_upstream_hash.t", verdict: fails, never: true, why: noUDP},
	{file: "stream_udp_upstream_least_conn.t", verdict: fails, never: true, why: noUDP},
	{file: "stream_udp_wildcard.t", verdict: fails, never: true, why: noUDP},
	{file: "stream_unix.t", verdict: passes, judges: ofBridge},
	{file: "stream_upstream.t", verdict: fails, why: "a server that fails is down for all routes, not for one upstream; and after it has failed, whose turn it is differs by one connection"},
	{file: "stream_upstream_hash.t", verdict: fails, why: "asks for the very server of two that nginx's hash leads to; whether midspan's hash leads to the same one depends on the ports"},
	{file: "stream_upstream_least_conn.t", verdict: passes, judges: ofMidspan},
	{file: "stream_upstream_least_time.t", verdict: skipped, why: "least_time is not there, which -V says"},
	{file: "stream_upstream_max_conns.t", verdict: fails, why: "a backup stands in for servers that are down, not for full ones: those are waited for"},
	{file: "stream_upstream_random.t", verdict: passes, judges: ofMidspan},
	{file: "stream_upstream_resolve.t", verdict: fails, why: "a name that has lost all its addresses keeps the last ones"},
	{file: "stream_upstream_resolve_reload.t", verdict: passes, judges: ofMidspan},
	{file: "stream_upstream_resolver.t", verdict: skipped, why: "a resolver of one upstream's own is refused: midspan has one for all"},
	{file: "stream_upstream_service.t", verdict: skipped, why: noService},
	{file: "stream_upstream_service_reload.t", verdict: skipped, why: noService},
	{file: "stream_upstream_zone.t", verdict: passes, judges: ofMidspan},
	{file: "stream_upstream_zone_ssl.t", verdict: passes, judges: ofMidspan},
	{file: "stream_variables.t", verdict: passes, judges: ofMidspan, why: "one of its tests is of UDP, which the front answers by itself"},
}
