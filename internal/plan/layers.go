package plan

import (
	"iter"
	"net/netip"
	"slices"
	"strings"

	"midspan/internal/config"
)

// What a route may do above TCP, and what it may ask of its clients.

// Limits are those of one client, or of one consumer. Zero: none.
type Limits struct {
	MaxConnections int         `json:"max_connections,omitempty"`
	Rate           config.Rate `json:"rate,omitzero"` // new connections
}

// WhenFull is what becomes of connections above a limit.
type WhenFull string

// The policies.
const (
	Queue WhenFull = "queue" // they wait in the listen queue
	Reset WhenFull = "reset"
)

// Consumer is who is at the other end of a private endpoint.
type Consumer struct {
	Name        string         `json:"name"`
	LinkIDs     []uint32       `json:"link_ids,omitempty"`     // Azure
	EndpointIDs []string       `json:"endpoint_ids,omitempty"` // AWS, GCP, Alibaba
	From        []netip.Prefix `json:"from,omitempty"`
	Routes      []string       `json:"routes,omitempty"` // none: all
	Limits
}

// MayUse tells whether the consumer may use a guarded route.
func (c *Consumer) MayUse(route string) bool {
	return len(c.Routes) == 0 || slices.Contains(c.Routes, route)
}

// Proxy is what is done with a PROXY protocol header of a client.
type Proxy struct {
	Mode    ProxyMode      `json:"mode"`
	From    []netip.Prefix `json:"from,omitempty"`   // who may send one; none: everybody
	Timeout Duration       `json:"timeout,omitzero"` // for the whole header
}

// ProxyMode tells whether clients begin with a PROXY protocol header. It is never
// guessed: a client that may choose could say that it is anybody.
type ProxyMode string

// The modes.
const (
	ProxyRefused  ProxyMode = "off"
	ProxyRequired ProxyMode = "required"
	ProxyPassed   ProxyMode = "pass" // to the server, unread
)

// SendProxy is the version of the PROXY protocol header that servers get.
type SendProxy string

// The versions.
const (
	SendNone SendProxy = "off"
	SendV1   SendProxy = "v1"
	SendV2   SendProxy = "v2"
)

// Group is a set of servers of a route.
type Group struct {
	// Match is a consumer (mode tcp), a server name (sni) or a host (http; "*"
	// is every host). Names are in lower case; "*.x" stands for all names below x.
	Match   string `json:"match"`
	Path    string `json:"path,omitempty"`    // http: what the request's path starts with
	Rewrite string `json:"rewrite,omitempty"` // http: what servers get in place of Path; "": Path
	Servers []int  `json:"servers"`           // indices into Route.Servers
}

// Sets are the route's sets of servers that are not empty: Default, and those of
// its groups.
func (r *Route) Sets() iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		if len(r.Default) > 0 && !yield(r.Default) {
			return
		}
		for _, g := range r.Groups {
			if !yield(g.Servers) {
				return
			}
		}
	}
}

// SNI is what becomes of connections without a server name.
type SNI struct {
	NoName   Fallback `json:"no_name"`
	NotTLS   Fallback `json:"not_tls"`
	MaxHello int      `json:"max_hello"` // bytes of a ClientHello
	Timeout  Duration `json:"timeout"`   // for the whole of it
}

// Fallback is a policy of SNI.
type Fallback string

// The policies.
const (
	ToDefault Fallback = "default"
	Refuse    Fallback = "reset"
	Alert     Fallback = "alert" // TLS's unrecognized_name; not for what is no TLS
)

// TLS is what a route shows its clients. Paths are of PEM files.
type TLS struct {
	Certs      []string `json:"certs"`         // with their chains
	Key        string   `json:"key,omitempty"` // "": in the file of its certificate
	ClientCA   string   `json:"client_ca,omitempty"`
	ClientCert string   `json:"client_cert,omitempty"` // required or optional; "" without ClientCA
	Min        string   `json:"min"`                   // 1.2 or 1.3
	ALPN       []string `json:"alpn,omitempty"`
	NoResume   bool     `json:"no_resume,omitempty"` // every handshake is a full one
}

// UpstreamTLS is how a route speaks TLS with its servers. It is comparable.
type UpstreamTLS struct {
	On       bool   `json:"on"`
	Name     string `json:"name,omitempty"` // "": the server's host
	CA       string `json:"ca,omitempty"`   // "": the system's
	Cert     string `json:"cert,omitempty"`
	Key      string `json:"key,omitempty"` // "": in Cert
	Insecure bool   `json:"insecure,omitempty"`
	Min      string `json:"min,omitempty"` // 1.2 or 1.3
	NoResume bool   `json:"no_resume,omitempty"`
}

// HTTP is what a route of mode http does with requests.
type HTTP struct {
	H2               bool            `json:"h2"`             // HTTP/2 to servers
	Host             string          `json:"host,omitempty"` // "": kept; HostOfServer; or a host
	Forwarded        Forwarded       `json:"forwarded"`
	Sticky           string          `json:"sticky,omitempty"` // a cookie's name
	HeaderTimeout    Duration        `json:"header_timeout"`
	KeepaliveTimeout Duration        `json:"keepalive_timeout"`
	ResponseTimeout  Duration        `json:"response_timeout"` // 0: off
	MaxHeader        int             `json:"max_header"`       // bytes
	SetRequest       []config.Header `json:"-"`
	RemoveRequest    []string        `json:"remove_request,omitempty"`
	SetResponse      []config.Header `json:"-"`
	RemoveResponse   []string        `json:"remove_response,omitempty"`
}

// HostOfServer stands for the server's own host and port in HTTP.Host.
const HostOfServer = "server"

// Forwarded is what becomes of X-Forwarded-For, -Proto and -Host.
type Forwarded string

// The ways.
const (
	ForwardedReplace Forwarded = "replace"
	ForwardedAppend  Forwarded = "append"
	ForwardedOff     Forwarded = "off"
)

// Stream tells whether the mode is over TCP.
func (m Mode) Stream() bool { return m != UDP }

// ServersFor are the servers for a name, as indices: those of the exact one, else of
// the longest pattern that it fits, else the default.
func (r *Route) ServersFor(name string) []int {
	servers, length := r.Default, len("*")
	for _, g := range r.Groups {
		if g.Match == name {
			return g.Servers
		}
		if below(g.Match, name) && len(g.Match) > length {
			servers, length = g.Servers, len(g.Match)
		}
	}
	return servers
}

// below tells whether name is one of those that pattern ("*.x") stands for.
func below(pattern, name string) bool {
	suffix, wild := strings.CutPrefix(pattern, "*")
	return wild && len(name) > len(suffix) && strings.HasSuffix(name, suffix)
}
