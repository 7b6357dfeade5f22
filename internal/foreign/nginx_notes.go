package foreign

import "strings"

// What directives of nginx become that are not carried over, by where they
// stand: the text after the directive in the note.

const (
	whyNginxLog     = isNone + whyLog
	whyNginxTune    = isNone + whyTune
	whyNginxHTTP    = isGone + whyNotHTTP
	whyNginxAccess  = openMark + "is not carried over; " + whereSource
	whyNoFiles      = isNone + "a route serves no files"
	whyVariable     = isGone + "variables are not evaluated"
	whyScript       = isGone + "midspan runs no scripts"
	whyKept         = "midspan keeps connections to servers, all clients share them, and an idle one is closed after 30 s"
	whyNginxTickets = isNone + "sessions, tickets and the time for a handshake are midspan's own"
	whyNginxTLS     = isGone + "what TLS does beside certificates, names and versions is left to Go's crypto/tls"
	whyRate         = isGone + "midspan does not limit rates"
)

// noteTable has the note of a directive by its name, or by how it begins.
type noteTable struct {
	names    map[string]string
	prefixes []prefixNote
}

type prefixNote struct{ prefix, why string }

// find is the note for a directive of that name.
func (t noteTable) find(name string) (why string, known bool) {
	if why, known = t.names[name]; known {
		return why, true
	}
	for _, p := range t.prefixes {
		if strings.HasPrefix(name, p.prefix) {
			return p.why, true
		}
	}
	return "", false
}

var mainNotes = noteTable{names: map[string]string{
	"user":                      isNone + whyProcess,
	"working_directory":         isNone + whyProcess,
	"pid":                       isNone + "systemd keeps midspan running",
	"daemon":                    isNone + "systemd keeps midspan running",
	"master_process":            isNone + "systemd keeps midspan running",
	"load_module":               isNone + "midspan has no modules",
	"error_log":                 whyNginxLog,
	"events":                    whyNginxTune,
	"accept_mutex":              whyNginxTune,
	"multi_accept":              whyNginxTune,
	"use":                       whyNginxTune,
	"pcre_jit":                  whyNginxTune,
	"thread_pool":               whyNginxTune,
	"timer_resolution":          whyNginxTune,
	"lock_file":                 whyNginxTune,
	"env":                       isNone + "midspan reads no environment variables",
	"mail":                      isGone + "midspan does not speak mail protocols",
	"mgmt":                      isNone + "it is for NGINX Plus",
	"google_perftools_profiles": isNone + "it is for debugging nginx",
}, prefixes: []prefixNote{
	{"worker_", whyNginxTune},
	{"debug_", isNone + "it is for debugging nginx"},
	{"ssl_engine", isNone + whyTLS},
}}

var streamNotes = noteTable{names: map[string]string{
	"access_log":                  whyNginxLog,
	"error_log":                   whyNginxLog,
	"log_format":                  isGone + "the log's format is json or tcplog",
	"open_log_file_cache":         whyNginxLog,
	"allow":                       whyNginxAccess,
	"deny":                        whyNginxAccess,
	"tcp_nodelay":                 isNone + "midspan never holds small segments back",
	"proxy_buffer_size":           whyNginxTune,
	"proxy_download_rate":         whyRate,
	"proxy_upload_rate":           whyRate,
	"proxy_half_close":            isNone + "midspan always passes a half-close on",
	"proxy_next_upstream":         isNone + whyNext,
	"proxy_next_upstream_timeout": isNone + whyNext,
	"proxy_requests":              isGone + "datagrams of a client go to one server until none has come for a while",
	"proxy_responses":             isNone + "a client's datagrams are answered for as long as any come",
	"limit_conn_log_level":        isNone + "midspan logs and counts each connection that it refuses",
	"server_name":                 isGone + "servers of one address are told apart by `map $ssl_preread_server_name`; write that",
	"set":                         whyVariable,
	"map":                         whyVariable,
	"geo":                         whyVariable,
	"split_clients":               whyVariable,
	"map_hash_bucket_size":        whyNginxTune,
	"map_hash_max_size":           whyNginxTune,
	"variables_hash_bucket_size":  whyNginxTune,
	"variables_hash_max_size":     whyNginxTune,
	"return":                      isGone + "a route forwards; it has no answers of its own",
	"pass":                        isGone + "a route forwards to a server",
	"health_check":                isGone + "write check: tcp for the route",
	"health_check_timeout":        isGone + "write check: tcp for the route",
	"match":                       isGone + whyCheckTCP,
	"status_zone":                 isNone + whyStats,
}, prefixes: []prefixNote{
	{"js_", whyScript},
	{"proxy_ssl_session", whyNginxTickets},
	{"proxy_ssl_crl", isGone + "midspan reads no revocation lists"},
	{"proxy_ssl", whyNginxTLS},
	{"ssl_crl", whyRevoked},
	{"ssl_session", whyNginxTickets},
	{"ssl_handshake_timeout", whyNginxTickets},
	{"ssl_", whyNginxTLS},
	{"limit_conn", isGone + "write max_connections or per_source for the route"},
	{"geoip", whyVariable},
	{"zone_sync", isNone + "machines share no state"},
}}

var upstreamNotes = noteTable{names: map[string]string{
	"zone":               isNone + "midspan is one process",
	"keepalive":          isNone + "each client connection has its own connection to a server",
	"keepalive_timeout":  isNone + "each client connection has its own connection to a server",
	"keepalive_requests": isNone + "each client connection has its own connection to a server",
	"keepalive_time":     isNone + "each client connection has its own connection to a server",
	"ntlm":               isNone + "each client connection has its own connection to a server",
	"resolver":           isGone + "midspan has one `dns` for the names of all routes",
	"resolver_timeout":   isGone + "midspan has one `dns` for the names of all routes",
	"queue":              isNone + "connections over a server's limit wait for connect_timeout",
	"state":              isNone + "the file is the only state",
	"sticky":             isGone + "midspan keeps no sessions; `balance: source` sends a client to the same server",
	"session_log":        isGone + "midspan keeps no sessions",
}}

// webUpstreamNotes are those of an upstream in an http block, before upstreamNotes.
var webUpstreamNotes = noteTable{names: map[string]string{
	"keepalive":          isNone + whyKept,
	"keepalive_timeout":  isNone + whyKept,
	"keepalive_requests": isNone + whyKept,
	"keepalive_time":     isNone + whyKept,
	"ntlm":               isNone + "a connection to a server stays with a client that authenticates by NTLM or Negotiate",
}}

var httpNotes = noteTable{names: map[string]string{
	"access_log":                    whyNginxLog,
	"error_log":                     whyNginxLog,
	"log_format":                    isGone + "the log's format is json or tcplog",
	"allow":                         whyNginxAccess,
	"deny":                          whyNginxAccess,
	"map":                           whyVariable,
	"geo":                           whyVariable,
	"split_clients":                 whyVariable,
	"set":                           whyVariable,
	"types":                         whyNoFiles,
	"sendfile":                      isNone + "midspan splices streams that keep moving",
	"tcp_nopush":                    isNone + "midspan never holds small segments back",
	"tcp_nodelay":                   isNone + "midspan never holds small segments back",
	"keepalive_timeout":             isNone + whyIdle,
	"keepalive_requests":            isNone + whyIdle,
	"send_timeout":                  isNone + whyIdle,
	"proxy_read_timeout":            isNone + whyIdle,
	"proxy_send_timeout":            isNone + whyIdle,
	"proxy_next_upstream":           isNone + whyNext,
	"proxy_next_upstream_timeout":   isNone + whyNext,
	"proxy_buffering":               whyNginxTune,
	"proxy_buffers":                 whyNginxTune,
	"proxy_buffer_size":             whyNginxTune,
	"proxy_busy_buffers_size":       whyNginxTune,
	"proxy_request_buffering":       whyNginxTune,
	"proxy_http_version":            isNone + "midspan speaks HTTP/1.1 with servers (`http: { protocol: h2 }`: HTTP/2)",
	"default_type":                  whyNoFiles,
	"charset":                       whyNginxHTTP,
	"error_page":                    whyNginxHTTP,
	"server_tokens":                 isNone + whyNotHTTP,
	"server_names_hash_bucket_size": whyNginxTune,
	"server_names_hash_max_size":    whyNginxTune,
	"types_hash_max_size":           whyNginxTune,
	"types_hash_bucket_size":        whyNginxTune,
	"map_hash_bucket_size":          whyNginxTune,
	"map_hash_max_size":             whyNginxTune,
	"variables_hash_max_size":       whyNginxTune,
	"variables_hash_bucket_size":    whyNginxTune,
	"underscores_in_headers":        whyNginxHTTP,
	"large_client_header_buffers":   whyNginxTune,
	"reset_timedout_connection":     isNone + whyIdle,
	"real_ip_header":                isGone + "midspan takes the client's address from PROXY headers only",
	"real_ip_recursive":             isGone + "midspan takes the client's address from PROXY headers only",
	"absolute_redirect":             whyNginxHTTP,
	"root":                          whyNginxHTTP,
	"index":                         whyNoFiles,
	"status_zone":                   isNone + whyStats,
	"server_name_in_redirect":       whyNginxHTTP,
	"port_in_redirect":              whyNginxHTTP,
	"ignore_invalid_headers":        whyNginxHTTP,
}, prefixes: []prefixNote{
	{"js_", whyScript},
	{"lua_", whyScript},
	{"proxy_ssl_session", whyNginxTickets},
	{"proxy_ssl_crl", isGone + "midspan reads no revocation lists"},
	{"proxy_ssl", whyNginxTLS},
	{"ssl_crl", whyRevoked},
	{"ssl_session", whyNginxTickets},
	{"ssl_", whyNginxTLS},
	{"quic", isGone + "midspan forwards TCP and UDP"},
	{"http", whyNginxHTTP},
	{"limit_conn", isGone + "write max_connections for the route; it is not by client"},
	{"limit_req", whyRate},
	{"limit_rate", whyRate},
	{"geoip", whyVariable},
	{"otel_", isNone + whyStats},
	{"auth_", moreMark + isGone + "midspan asks nobody who they are; let the servers ask"},
	{"proxy_", whyNginxHTTP},
	{"client_", whyNginxHTTP},
	{"gzip", isGone + "midspan changes no bodies; let the servers compress"},
	{"fastcgi_", whyNginxHTTP},
	{"uwsgi_", whyNginxHTTP},
	{"scgi_", whyNginxHTTP},
	{"grpc_", whyNginxHTTP},
	{"add_", whyNginxHTTP},
	{"open_file_cache", isNone + whyNotHTTP},
}}
