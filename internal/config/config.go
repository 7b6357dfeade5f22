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
	Defaults       Settings
	Routes         []Route // in the order of the file
	RoutesPos      Pos     // of the key "routes"
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
	IdleTimeout    Field[OffOr[time.Duration]]
	FinTimeout     Field[OffOr[time.Duration]]
	UserTimeout    Field[OffOr[time.Duration]]
	Keepalive      Keepalive
	Check          Check
	Warm           Field[int]
	MaxConnections Field[int]
}

// Keepalive is TCP keepalive, for both legs of a connection.
type Keepalive struct {
	Off      Field[bool]
	Idle     Field[time.Duration]
	Interval Field[time.Duration]
	Count    Field[int]
}

// Check is the test of a server.
type Check struct {
	Off     Field[bool]
	TCP     Field[bool]
	HTTP    Field[string] // the path that is asked for
	Host    Field[string] // the HTTP Host header
	Port    Field[int]
	Every   Field[time.Duration]
	Timeout Field[time.Duration]
	Rise    Field[int]
	Fall    Field[int]
}

// Route is one thing forwarded.
type Route struct {
	Comment string // written above the route by Encode; not read back

	Name   Field[string]
	Mode   Field[string] // one of Modes
	Listen []Field[Listen]
	To     []Server
	Settings
}

// Server is one host:port of a route's upstream.
type Server struct {
	Target         Field[Target]
	Weight         Field[int]
	Backup         Field[bool]
	MaxConnections Field[int]
}
