// Package engine states what every forwarding engine must do. The suite in
// enginetest holds each of them to it.
package engine

import (
	"context"
	"net/netip"
	"time"

	"midspan/internal/plan"
)

// Engine makes this host forward what a plan says.
//
// Its methods may be called from any goroutine; Apply and Close are not called
// at the same time as each other.
type Engine interface {
	// Apply makes the host forward exactly what p says. It works out the
	// difference to what is in force: listeners and connections of routes that
	// stay are not touched, and applying the same plan twice changes nothing.
	// Connections of a route or endpoint that has gone are kept until they end.
	//
	// When it fails, nothing has changed. A listener whose interface or
	// address the host does not have (yet) is no failure: it is Pending, and
	// tried again by the next Apply.
	Apply(ctx context.Context, p *plan.Plan) (Change, error)

	// Status is what is in force now, with counters since the engine started.
	Status() Status

	// Conns are the live connections, oldest first.
	Conns() []Conn

	// Kill resets the connection with that ID, on both legs, and tells whether
	// there was one.
	Kill(id string) bool

	// Close resets the connections that are left and gives back all that the
	// engine holds. No method may be called after it.
	Close() error
}

// Change is what an Apply did.
type Change struct {
	Added   []string  // listeners opened, as "route address"
	Removed []string  // listeners closed
	Pending []Pending // listeners that wait for the host
}

// Empty tells whether nothing changed and nothing waits.
func (c Change) Empty() bool { return len(c.Added)+len(c.Removed)+len(c.Pending) == 0 }

// Pending is a listener that cannot be opened until the host changes.
type Pending struct {
	Route  string `json:"route"`
	Listen string `json:"listen"`
	Why    string `json:"why"`
}

// Status is the engine's state.
type Status struct {
	Connections    int           `json:"connections"`     // now, over all routes
	MaxConnections int           `json:"max_connections"` // the limit in force
	AcceptErrors   uint64        `json:"accept_errors"`   // accepts that failed for want of fds or memory
	Panics         uint64        `json:"panics"`          // connections ended by a defect of ours
	Pending        []Pending     `json:"pending,omitempty"`
	Certificates   []Certificate `json:"certificates,omitempty"` // that are shown to others
	Tracking       *Tracking     `json:"tracking,omitempty"`     // of the kernel's engine
	Routes         []RouteStatus `json:"routes"`
	// Consumers are those of the plan, in its order, and those that are gone but
	// have connections.
	Consumers []ConsumerStatus `json:"consumers,omitempty"`
}

// ConsumerStatus is the state of one consumer, over all routes.
type ConsumerStatus struct {
	Name      string `json:"name"`
	Active    int    `json:"active"`
	Accepted  uint64 `json:"accepted"`
	Refused   uint64 `json:"refused"` // not for it, or above its limits
	BytesUp   uint64 `json:"bytes_up"`
	BytesDown uint64 `json:"bytes_down"`
}

// Certificate is a file with a certificate that a route shows its clients or its
// servers.
type Certificate struct {
	Route   string    `json:"route"`
	File    string    `json:"file"`
	Expires time.Time `json:"expires"`           // the first in its chain to
	Problem string    `json:"problem,omitempty"` // why its newest content is not in force
}

// Tracking is how full the kernel's table of connections is; it is shared with
// all else on this machine that is tracked.
type Tracking struct {
	Entries int    `json:"entries"`
	Max     int    `json:"max"`     // above it, packets of new connections are dropped; 0: no limit
	Dropped uint64 `json:"dropped"` // packets of new connections, for want of room or of ports
}

// RouteStatus is the state of one route, in the order of the plan. Routes that
// are gone but have connections stay, marked Removed.
type RouteStatus struct {
	Name      string           `json:"name"`
	Removed   bool             `json:"removed,omitempty"`
	Outlives  bool             `json:"outlives,omitempty"` // its connections go on without this process
	Listening []string         `json:"listening"`
	Counters  Counters         `json:"counters"`
	Endpoints []EndpointStatus `json:"endpoints"`
	HTTP      *HTTPStatus      `json:"http,omitempty"`  // mode http; else nil
	Kafka     *KafkaStatus     `json:"kafka,omitempty"` // mode kafka; else nil
}

// KafkaStatus is what a route of mode kafka has done since the engine started.
type KafkaStatus struct {
	Nodes     []NodeStatus `json:"nodes"`     // that are known, by ID, and those that clients have asked for
	Requests  []APICount   `json:"requests"`  // by API key, then version
	Rewritten uint64       `json:"rewritten"` // answers in which addresses were written anew
	Dropped   uint64       `json:"dropped"`   // addresses left out of answers: their nodes have no port
	Unknown   uint64       `json:"unknown"`   // requests of APIs that are not known here
}

// NodeStatus is the state of one node of a cluster.
type NodeStatus struct {
	ID        int32  `json:"id"`
	Port      uint16 `json:"port"`             // that clients reach it at
	Server    string `json:"server,omitempty"` // where it is; "": not known
	Up        bool   `json:"up"`               // an endpoint of its server is, and not as the last resort
	By        string `json:"by,omitempty"`     // plan.NodeFrom
	Active    int    `json:"active"`
	Accepted  uint64 `json:"accepted"`
	BytesUp   uint64 `json:"bytes_up"`
	BytesDown uint64 `json:"bytes_down"`
}

// APICount counts the requests of one API.
type APICount struct {
	Key     int16  `json:"key"`
	Version int16  `json:"version"`
	Count   uint64 `json:"count"`
}

// HTTPStatus counts the requests of a route of mode http.
type HTTPStatus struct {
	Requests map[string]uint64 `json:"requests"` // that ended, by the status that the client got
	// Waits are those that a server answered, by how long that took (see HTTP.Wait):
	// up to HTTPWaits[i], and above the last of them. Waited is that in all.
	Waits  [len(HTTPWaits) + 1]uint64 `json:"waits"`
	Waited time.Duration              `json:"waited_ns"`
}

// Requests without an answer, and with one that has no status from 100 to 599.
const (
	NoStatus    = "none"
	OtherStatus = "other"
)

// HTTPWaits are the bounds by which waits are counted: what a service in the same
// network needs, up to what a person does not wait for.
var HTTPWaits = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Counters of a route. Up is from client to server.
type Counters struct {
	Active    int               `json:"active"`
	Accepted  uint64            `json:"accepted"`
	BytesUp   uint64            `json:"bytes_up"`
	BytesDown uint64            `json:"bytes_down"`
	Ended     map[Reason]uint64 `json:"ended"` // by why
}

// EndpointStatus is the state of one endpoint of a server. A server whose name
// has no address (yet) has one with the zero Addr.
type EndpointStatus struct {
	Server string         `json:"server"`
	Addr   netip.AddrPort `json:"addr"` // port 0: the listener's
	Up     bool           `json:"up"`
	// LastResort: Up only because there is nothing better; connects fail.
	LastResort bool   `json:"last_resort,omitempty"`
	Active     int    `json:"active"`
	Warm       int    `json:"warm,omitempty"` // connections ready, or about to be, for clients to come
	Connects   uint64 `json:"connects"`       // that succeeded
	Failures   uint64 `json:"failures"`       // connects that failed
	LastError  string `json:"last_error,omitempty"`
	// Source ports in use for it, and how many there are; 0: not known to the
	// engine.
	Ports    int `json:"ports,omitempty"`
	MaxPorts int `json:"max_ports,omitempty"`
}

// Conn is a live connection.
type Conn struct {
	ID     string         `json:"id"`
	Route  string         `json:"route"`
	Node   *int32         `json:"node,omitempty"` // mode kafka: whose port the client has connected to
	State  string         `json:"state"`          // opening, connecting, open, client-closed, server-closed
	Client netip.AddrPort `json:"client"`         // as the PROXY header has it, where there is one
	Caller
	Listener  netip.AddrPort `json:"listener"`
	Server    string         `json:"server,omitempty"`
	Endpoint  netip.AddrPort `json:"endpoint"`
	Start     time.Time      `json:"start"`
	Idle      time.Duration  `json:"idle_ns"` // since a byte moved
	BytesUp   uint64         `json:"bytes_up"`
	BytesDown uint64         `json:"bytes_down"`
}

// Caller is what is known of a client besides its address.
type Caller struct {
	Peer       netip.AddrPort `json:"peer,omitzero"`         // who really connected and sent a PROXY header; else zero
	Link       string         `json:"link,omitempty"`        // the private endpoint's id: "azure:553665985", "aws:vpce-…"
	Consumer   string         `json:"consumer,omitempty"`    // whose that is
	ServerName string         `json:"server_name,omitempty"` // what the client asked for in TLS
	TLS        *TLS           `json:"tls,omitempty"`         // spoken with the client; nil: none, or none yet
}

// TLS is what was agreed on in a handshake. It is not changed once made.
type TLS struct {
	Version  string `json:"version"`            // 1.2 or 1.3
	Cipher   string `json:"cipher"`             // by its name in the standards
	Protocol string `json:"protocol,omitempty"` // by ALPN
	Resumed  bool   `json:"resumed,omitempty"`  // an earlier session goes on
}

// Reason is why a connection ended.
type Reason string

// The reasons. "closed" is the orderly end, named after the side that ended
// first.
const (
	ClosedByClient Reason = "closed by client"
	ClosedByServer Reason = "closed by server"
	ResetByClient  Reason = "reset by client"
	ResetByServer  Reason = "reset by server"
	NotAllowed     Reason = "not allowed" // the client is none of the route's `allow`

	Probe              Reason = "probe"                    // ended before it sent anything: a load balancer's test
	OpeningTimeout     Reason = "opening timeout"          // its PROXY header or ClientHello was not complete in time
	BadProxyHeader     Reason = "bad PROXY header"         // required, and not there or wrong
	ProxyNotAllowed    Reason = "PROXY header not allowed" // the route takes none, or none from this peer
	UnknownConsumer    Reason = "unknown consumer"
	ConsumerNotAllowed Reason = "consumer not allowed" // not on this route
	ConsumerLimit      Reason = "consumer limit"
	RateLimit          Reason = "rate limit"
	RouteLimit         Reason = "route limit"  // max_connections, with when_full: reset
	SourceLimit        Reason = "source limit" // per_source
	NoServerName       Reason = "no server name"
	UnknownServerName  Reason = "unknown server name"
	UnknownHost        Reason = "unknown host or path" // mode http: no rule fits, and there is no `to`
	NotTLS             Reason = "not TLS"
	TLSFailed          Reason = "TLS handshake failed" // with the client
	BadRequest         Reason = "bad request"          // not HTTP (mode kafka: not Kafka's protocol), or not safe to pass on

	UnknownNode   Reason = "unknown node" // mode kafka: nobody knows where the node of that port is
	ConnectFailed Reason = "connect failed"
	NoServer      Reason = "no server up"
	ServersFull   Reason = "servers full"
	NoResources   Reason = "out of resources" // fds, ports or memory on this machine
	BadResponse   Reason = "bad response"     // what the server sent is not of the mode's protocol, or not safe to pass on
	// Of requests, in mode http.
	ResponseTimeout Reason = "response timeout" // the server's head did not come in time

	IdleTimeout Reason = "idle timeout"
	FinTimeout  Reason = "fin timeout"
	LostClient  Reason = "client lost" // keepalive or user timeout
	LostServer  Reason = "server lost"
	ServerDown  Reason = "server down" // and the route says on_down: cut
	Killed      Reason = "killed"
	Stopped     Reason = "daemon stopped"
	Fault       Reason = "fault in midspan"
)

// refusals are the reasons for which a client was not let in: what it is, said or
// asked for, and limits, but no want of servers.
var refusals = []Reason{
	NotAllowed, OpeningTimeout, BadProxyHeader, ProxyNotAllowed, UnknownConsumer, ConsumerNotAllowed, ConsumerLimit, RateLimit, RouteLimit,
	SourceLimit, NoServerName, UnknownServerName, UnknownHost, NotTLS, TLSFailed, BadRequest,
}

// Refused is how many of the connections that ended were refused.
func (c Counters) Refused() (n uint64) {
	for _, r := range refusals {
		n += c.Ended[r]
	}
	return n
}

// Reasons are all of them, in a fixed order.
var Reasons = []Reason{
	ClosedByClient, ClosedByServer, ResetByClient, ResetByServer, NotAllowed,
	Probe, OpeningTimeout, BadProxyHeader, ProxyNotAllowed, UnknownConsumer, ConsumerNotAllowed, ConsumerLimit,
	RateLimit, RouteLimit, SourceLimit, NoServerName, UnknownServerName, UnknownHost, NotTLS, TLSFailed, BadRequest, UnknownNode, ConnectFailed, NoServer, ServersFull,
	NoResources, BadResponse, ResponseTimeout, IdleTimeout, FinTimeout, LostClient, LostServer, ServerDown, Killed, Stopped, Fault,
}

// Record is one line of the access log. A start record (End is zero) is made
// once the server is connected.
type Record struct {
	Conn
	End     time.Time
	Connect time.Duration // until the server was connected; 0: none was, and Server is the one last tried, if any
	Reason  Reason        // "" in a start record
	Err     string        // the last connect error, if any
	Retries int           // endpoints that were tried in vain

	// Tried are those, in the order in which they failed.
	Tried []netip.AddrPort

	// Connections at this moment: in all, on the route, on the server.
	TotalActive, RouteActive, ServerActive int

	// HTTP is the request that the record is of: on a route of mode http there
	// is an end record for each request, and one without for a connection on
	// which none was made. BytesUp and BytesDown are then those of the bodies.
	HTTP *HTTP
}

// HTTP is a request and how it was answered.
type HTTP struct {
	Method   string
	Host     string
	Path     string        // with the query, as the client sent it
	Protocol string        // HTTP/1.1, HTTP/2.0
	Status   int           // 0: the connection ended without an answer
	Wait     time.Duration // from the end of the request's head to that of the response's
}

// Dial is the outcome of a connect to an endpoint.
type Dial struct {
	Route, Server string
	Addr          netip.AddrPort
	Err           error // nil: it worked
	// Late: Err is of what follows on the TCP connect, such as the TLS handshake.
	// It says nothing about routes that do otherwise there.
	Late bool
}

// Node is a node of a route's cluster, as the cluster says where it is.
type Node struct {
	Route string
	ID    int32
	Host  string // "": not known: a client has connected to the node's port
	Port  uint16
}

// Hooks are how an engine tells what happens. They are called from the data
// path and must not block; nil ones are left out.
type Hooks struct {
	// Dial is called for each connect that failed, and for the first one that
	// worked after failures.
	Dial func(Dial)
	// Record is called when a connection starts and when it ends. The record
	// is the callee's to keep.
	Record func(*Record)
	// Node is called for a node of a cluster (mode kafka) that an answer tells of
	// otherwise than the plan does, and for one that a client wants and the plan
	// does not have. It may be called often for the same one.
	Node func(Node)
	// Wants tells whether records of starts, or of ends, are of use at this
	// moment; nil: they always are. It is asked before each is made.
	Wants func(end bool) bool
}
