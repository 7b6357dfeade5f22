// Package peer knows the forwarders that are put beside each other: what each
// needs, its configuration, and how it is started and told of a change.
package peer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"midspan/bench/lab"
	"midspan/bench/load"
)

// Route is a port of the forwarder that leads to the target.
type Route struct {
	Port int
	To   string // address and port
	Mode Mode
}

// Mode is what a forwarder does with the bytes of a route, beside passing them on.
type Mode string

// The modes.
const (
	ModeTCP   Mode = ""      // nothing
	ModeSNI   Mode = "sni"   // chooses the target by the name in TLS's first message: ServerName, and no other
	ModeHTTP  Mode = "http"  // is a reverse proxy
	ModeTLS   Mode = "tls"   // ends TLS, with the certificate of pemFile
	ModeKafka Mode = "kafka" // understands Kafka's protocol, and rewrites what answers say of brokers
	ModeProxy Mode = "proxy" // takes a PROXY header of the client's and sends one to the target
)

// ServerName is what clients ask for in TLS.
const ServerName = "server.example.com"

// pemFile has the certificate and the key of a lab.
const pemFile = "server.pem"

// Listen is where clients connect to.
func (r Route) Listen() string { return fmt.Sprintf("%s:%d", lab.ForwarderIP, r.Port) }

// Limits are what a forwarder must be able to carry; its configuration says so
// where its defaults do not.
type Limits struct{ Conns int }

// Kind is what sort of thing a peer is.
type Kind int

// The kinds of peers.
const (
	None   Kind = iota // the client reaches the target without a forwarder
	Kernel             // address translation
	Proxy
	Midspan
)

// Peer is one way to forward.
type Peer struct {
	Name, Title string
	Kind        Kind
	Family      string // variants of one program
	Best        bool   // the variant that its manual recommends for this use
	FDs         int    // open files for a connection; 0: none
	Engine      string // midspan's, see Relay
	Routes      bool   // can have many routes
	Modes       []Mode // what it can do
	Optional    bool   // may be missing

	program string // found in the search path, or a path
	remedy  string // what brings it
	needs   []need // files beside it
	version []string
	env     []string

	file     string // name of the configuration
	config   func([]Route, Limits) string
	args     []string               // when empty the peer is no process
	argsFor  func([]Route) []string // further ones
	apply    func(*lab.Lab, []Route) error
	extend   func(*lab.Lab, Route) error // adds a route to a peer that is no process
	reload   os.Signal
	troubles func(*Running) error
}

type need struct{ file, remedy string }

// Can tells whether p has a mode.
func (p *Peer) Can(m Mode) bool { return slices.Contains(p.Modes, m) }

// Missing is nil when all is there that p needs, and says what is not.
func (p *Peer) Missing() error {
	var errs []error
	if p.program != "" {
		if _, err := p.path(); err != nil {
			errs = append(errs, missing(p.program, p.remedy))
		}
	}
	for _, n := range p.needs {
		if _, err := os.Stat(n.file); err != nil {
			errs = append(errs, missing(n.file, n.remedy))
		}
	}
	return errors.Join(errs...)
}

func missing(what, remedy string) error {
	if remedy == "" {
		return fmt.Errorf("%s is missing", what)
	}
	return fmt.Errorf("%s is missing: %s", what, remedy)
}

func (p *Peer) path() (string, error) { return Find(p.program) }

// Find finds a program; an ordinary user's search path may lack sbin.
func Find(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// Version is the first line of what the program says of itself.
func (p *Peer) Version() (string, error) {
	if len(p.version) == 0 {
		return "", nil
	}
	path, err := p.path()
	if err != nil {
		return "", err
	}
	out, err := exec.Command(path, p.version...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", p.program, strings.Join(p.version, " "), err, out)
	}
	return versionIn(strings.ReplaceAll(string(out), path, p.program)), nil
}

// versionIn is the number in what a program says of itself, which may also have
// its path and home page; or, where there is none, its first line.
func versionIn(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if m := versionNumber.FindStringSubmatch(line); m != nil {
		return m[1]
	}
	return line
}

var versionNumber = regexp.MustCompile(`[ /v](\d+\.\d+\.\d+[\w.+~-]*)`)

// Config is what p runs with.
func (p *Peer) Config(routes []Route, limits Limits) string {
	if p.config == nil {
		return ""
	}
	return p.config(routes, limits)
}

// Addr is what the client connects to for a route.
func (p *Peer) Addr(r Route) string {
	if p.Kind == None {
		return r.To
	}
	return r.Listen()
}

// Running is a peer at work in a lab.
type Running struct {
	Peer    *Peer
	Proc    *lab.Proc // nil: it is no process
	Started time.Time

	lab    *lab.Lab
	limits Limits
}

// Start starts p, and does not wait until it is ready.
func (p *Peer) Start(l *lab.Lab, routes []Route, limits Limits) (*Running, error) {
	r := &Running{Peer: p, Started: time.Now(), lab: l, limits: limits}
	if p.apply != nil {
		return r, p.apply(l, routes)
	}
	if len(p.args) == 0 {
		return r, nil
	}
	if slices.ContainsFunc(routes, func(r Route) bool { return r.Mode == ModeTLS }) {
		text, err := load.Certificate(ServerName)
		if err == nil {
			err = os.WriteFile(filepath.Join(l.Dir, pemFile), text, 0o600)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := r.launch(p.Config(routes, limits), routes); err != nil {
		return nil, err
	}
	return r, nil
}

// launch starts the peer's process with a configuration.
func (r *Running) launch(config string, routes []Route) error {
	p := r.Peer
	if err := r.write(config); err != nil {
		return err
	}
	program := p.program
	if program == "" {
		program = lab.Self
	} else {
		path, err := p.path()
		if err != nil {
			return err
		}
		program = path
	}
	args := p.args
	if p.argsFor != nil {
		args = slices.Concat(args, p.argsFor(routes))
	}
	var err error
	if r.Proc, err = r.lab.Start(lab.Cmd{Program: program, Args: args, Env: p.env, In: r.lab.Forwarder}); err != nil {
		return err
	}
	r.Started = r.Proc.Started
	return nil
}

func (r *Running) write(config string) error {
	if r.Peer.file == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(r.lab.Dir, r.Peer.file), []byte(config), 0o644)
}

// CanExtend tells whether a route can be added while connections live on.
func (r *Running) CanExtend() bool { return r.Peer.extend != nil || r.Peer.reload != nil }

// Extend adds a route to those that it has, and returns when that began; it
// does not wait until the route works.
func (r *Running) Extend(routes []Route, added Route) (time.Time, error) {
	if r.Peer.extend != nil {
		began := time.Now()
		return began, r.Peer.extend(r.lab, added)
	}
	if err := r.write(r.Peer.config(append(routes[:len(routes):len(routes)], added), r.limits)); err != nil {
		return time.Time{}, err
	}
	began := time.Now()
	return began, r.Proc.Signal(r.Peer.reload)
}

// Ended tells that the peer's process has ended.
func (r *Running) Ended() error {
	if r.Proc == nil {
		return nil
	}
	return r.Proc.Err()
}

// Err tells what went wrong at the peer: it has ended, or it counts connections
// that it could not serve.
func (r *Running) Err() error {
	if err := r.Ended(); err != nil || r.Peer.troubles == nil {
		return err
	}
	return r.Peer.troubles(r)
}
