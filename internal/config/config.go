// Package config reads midspan.yaml: text in, a File with positions or every
// problem at once out. The same table of keys (keys.go) drives the decoder, the
// encoder and the JSON Schema, so the three cannot disagree on a key.
//
// Limits: one YAML document of at most MaxSize bytes; no merge keys ("<<").
// Only the form of single values is checked here; what needs two values to be
// seen together (a port used twice, a weight on the only server) is plan's.
package config

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// MaxSize is the largest file that is read, in bytes. A file with 10,000
// routes is below 1 MiB.
const MaxSize = 4 << 20

// Pos is a place in a text: 1-based line and column (in bytes). The zero Pos
// stands for "not written".
type Pos struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Col  int    `json:"col"`
}

func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Problem is one thing that is wrong, where, and what to do instead.
type Problem struct {
	Pos  Pos    `json:"pos"`
	Text string `json:"text"` // "what is wrong; what to write instead"
}

func (p Problem) String() string { return p.Pos.String() + ": " + p.Text }

// Problems are all the problems of one input, in the order of their places.
// As an error it is one line for each.
type Problems []Problem

func (ps Problems) Error() string { return strings.Join(ps.Lines(), "\n") }

// Lines are the problems as one line each.
func (ps Problems) Lines() []string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return lines
}

// Addf appends a problem.
func (ps *Problems) Addf(pos Pos, format string, args ...any) {
	*ps = append(*ps, Problem{pos, fmt.Sprintf(format, args...)})
}

// Err is ps sorted by place, or nil when there is no problem.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if c := strings.Compare(a.Pos.File, b.Pos.File); c != 0 {
			return c
		}
		if a.Pos.Line != b.Pos.Line {
			return a.Pos.Line - b.Pos.Line
		}
		return a.Pos.Col - b.Pos.Col
	})
	return ps
}

// Field is a value and the place it was written. One that was not written has
// the zero Pos.
type Field[T any] struct {
	V   T
	Pos Pos
}

// At makes a Field: the value v, written at pos.
func At[T any](v T, pos Pos) Field[T] { return Field[T]{v, pos} }

// Set tells whether the value was written.
func (f Field[T]) Set() bool { return f.Pos != Pos{} }

// Or is the value, or d where none was written.
func (f Field[T]) Or(d T) T {
	if f.Set() {
		return f.V
	}
	return d
}

// File is one midspan.yaml.
type File struct {
	Comment string // written above everything by Encode; not read back

	Health         Health
	Admin          Field[OffOr[Listen]]
	Control        Field[OffOr[string]]
	Log            Log
	DNS            DNS
	Drain          Drain
	NFT            NFT
	MaxConnections Field[int]
	Consumers      []Consumer // in the order of the file
	Defaults       Settings
	Routes         []Route  // in the order of the file
	RoutesPos      Pos      // of the key "routes"
	BrokenRoutes   []string // names of those with problems, which are not in Routes
}

// OffOr is a value that can be switched off by the word "off".
type OffOr[T any] struct {
	Off bool
	V   T
}

// Health is the endpoint that the cloud's load balancer probes.
type Health struct {
	Listen   Field[OffOr[Listen]]
	DownWhen Field[string] // one of DownWhens
}

// Log is the access log.
type Log struct {
	Format Field[string] // one of LogFormats
	To     Field[string] // stdout, stderr or a path
	Start  Field[bool]   // also a record when a connection starts
}

// DNS says how names are looked up. Nothing set means the system's way.
type DNS struct {
	Servers []Field[Nameserver]
	MinTTL  Field[time.Duration]
	MaxTTL  Field[time.Duration]
	Timeout Field[time.Duration]
}

// Drain says how the daemon ends.
type Drain struct {
	Detection Field[time.Duration]
	Timeout   Field[time.Duration]
}

// NFT is the kernel engine, for all of its routes.
type NFT struct {
	Keep  Field[bool]  // rules and live connections outlive the daemon
	Ports Field[Ports] // to connect to servers from
}

// Settings may stand in `defaults` and in a route; the route's win.
type Settings struct {
	Engine         Field[string] // one of Engines
	Allow          []Field[netip.Prefix]
	Source         []Field[netip.Addr]
	OnDown         Field[string] // one of OnDowns
	Balance        Field[string] // one of Balances
	ConnectTimeout Field[time.Duration]
	Tries          Field[int]
	IdleTimeout    Field[OffOr[time.Duration]]
	FinTimeout     Field[OffOr[time.Duration]]
	UserTimeout    Field[OffOr[time.Duration]]
	Keepalive      Keepalive
	Check          Check
	Warm           Field[int]
	MaxConnections Field[int]
	WhenFull       Field[string] // one of WhenFulls
	Rate           Field[Rate]
	PerSource      Limits
	SlowStart      Field[OffOr[time.Duration]]
	Proxy          Proxy
	SendProxy      Field[string] // one of SendProxies
}

// Limits are those of one client, or of one consumer.
type Limits struct {
	MaxConnections Field[int]
	Rate           Field[Rate]
}

// Proxy is what is done with a PROXY protocol header of a client.
type Proxy struct {
	Mode    Field[string]         // one of ProxyModes
	From    []Field[netip.Prefix] // who may send them; none: everybody
	Timeout Field[time.Duration]
}

// Keepalive is TCP keepalive, for both legs of a connection.
type Keepalive struct {
	Off      Field[bool]
	Idle     Field[time.Duration]
	Interval Field[time.Duration]
	Count    Field[int]
}

// Consumer is who is at the other end of a private endpoint.
type Consumer struct {
	Name       Field[string]
	LinkID     []Field[uint32]       // Azure
	EndpointID []Field[string]       // AWS, GCP, Alibaba
	From       []Field[netip.Prefix] // the client's address
	Routes     []Field[string]       // none: all
	Broken     bool                  // Parse found problems in it; what could be read is here
	Limits
}

// Route is one thing forwarded.
type Route struct {
	Comment string // written above the route by Encode; not read back

	Name        Field[string]
	Mode        Field[string] // one of Modes
	Listen      []Field[Listen]
	To          []Server // where no group is meant
	Groups      []Group
	SNI         SNI
	TLS         TLS
	UpstreamTLS UpstreamTLS
	HTTP        HTTP
	Advertise   Advertise
	Nodes       Nodes
	Kafka       Kafka
	Settings
}

// Servers are those of the route and of its groups, in the order of the file.
func (r *Route) Servers() iter.Seq[*Server] {
	return func(yield func(*Server) bool) {
		for i := range r.To {
			if !yield(&r.To[i]) {
				return
			}
		}
		for i := range r.Groups {
			for j := range r.Groups[i].To {
				if !yield(&r.Groups[i].To[j]) {
					return
				}
			}
		}
	}
}

// Group is a set of servers for some of a route's connections or requests.
type Group struct {
	Match   Field[string] // a consumer (mode tcp), a server name (sni) or a host (http)
	Path    Field[string] // http: what the path starts with; "": all
	Rewrite Field[string] // http: written in place of Path
	To      []Server
}

// SNI is what becomes of connections that have no server name.
type SNI struct {
	NoName   Field[string] // one of NoNames
	NotTLS   Field[string] // one of Fallbacks
	MaxHello Field[Size]
	Timeout  Field[time.Duration]
}

// TLS is what the route shows its clients.
type TLS struct {
	Cert       []Field[string] // paths; a file holds certificates, and the key where Key is not set
	Key        Field[string]
	ClientCA   Field[string]
	ClientCert Field[string] // one of ClientCerts
	Min        Field[string] // one of TLSVersions
	Resume     Field[bool]
	ALPN       []Field[string]
}

// UpstreamTLS is how the route speaks TLS with its servers.
type UpstreamTLS struct {
	On     Field[bool]
	Name   Field[string]
	CA     Field[string]
	Cert   Field[string]
	Key    Field[string]
	Verify Field[bool]
	Min    Field[string] // one of TLSVersions
	Resume Field[bool]
}

// HTTP is for routes of mode http.
type HTTP struct {
	Protocol         Field[string] // one of HTTPProtocols
	Host             Field[string] // keep, server or a host
	Forwarded        Field[string] // one of Forwardeds
	Sticky           Field[string] // the name of a cookie
	HeaderTimeout    Field[time.Duration]
	KeepaliveTimeout Field[time.Duration]
	ResponseTimeout  Field[OffOr[time.Duration]]
	MaxHeader        Field[Size]
	RequestHeaders   Headers
	ResponseHeaders  Headers
}

// Headers are changes of a head.
type Headers struct {
	Set    []Header
	Remove []Field[string]
}

// Header is a field of a head.
type Header struct{ Name, Value Field[string] }

// Server is one host:port of a route's upstream.
type Server struct {
	Target         Field[Target]
	Weight         Field[int]
	Backup         Field[bool]
	MaxConnections Field[int]
}
