// Package admin serves what others may ask of a daemon, over three HTTP
// endpoints: the probe, by which a load balancer finds out whether this machine
// should get new connections; admin, with metrics, status and a page for people,
// which changes nothing; and control, an API on a Unix socket for the command
// line, which does. Client is the other end of that API.
//
// The probe's paths: / is this machine, /route/NAME one route, and
// /route/NAME/node/ID one node of the Kafka cluster behind a route, for a load
// balancer's rule for the port of that node alone. Each answers 200 when new
// connections should come, 503 when not, and 404 when there is no such route, or
// nobody knows of such a node.
//
// The probe accepts a connection with or without a PROXY protocol header in
// front, because Azure sends one to every probe of a load balancer as soon as
// any Private Link Service on it has the protocol on.
//
// Limits: an answer of 503 is how a machine takes itself out, and a load balancer
// that probes by TCP connect cannot see it. The probe stays open while the daemon
// drains, so such a one sends connections until the process ends; use an HTTP
// probe. (The metric midspan_probes_total counts TCP probes apart.) There is no
// TLS and no password: admin is meant for loopback or a network of its own, and
// who may open the control socket may do all that it can.
package admin

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"midspan/internal/daemon"
	"midspan/internal/plan"
)

// Options of a Server. Daemon is required.
type Options struct {
	Daemon     *daemon.Daemon
	Version    string        // of midspan
	LogDropped func() uint64 // records of the access log that were lost; nil: not counted
	Log        *slog.Logger  // nil: silent
}

// Server serves the endpoints that a plan has. Its methods may be called from
// any goroutine.
type Server struct {
	o       Options
	limits  limits
	probes  *probes
	web     http.Handler
	api     http.Handler
	ctx     context.Context // ends when connections must go
	stop    context.CancelFunc
	serving sync.WaitGroup // every goroutine of the server's

	mu     sync.Mutex // guards what follows
	open   [slots]*endpoint
	closed bool
}

// limits bound what others can hold; tests lower them.
type limits struct {
	header time.Duration // to send the PROXY header and the request
	idle   time.Duration // between two requests
	conns  int           // of the probe endpoint, at once
	grace  time.Duration // for a request under way, when its endpoint closes
}

const maxHeaderBytes = 8 << 10

// New returns a Server that serves nothing until Use says where.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		o: o, probes: newProbes(),
		limits: limits{header: 5 * time.Second, idle: 60 * time.Second, conns: 256, grace: 10 * time.Second},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.web, s.api = newWeb(s), newAPI(s)
	return s
}

// Use opens, moves and closes endpoints to fit p. When one cannot be opened,
// nothing changes. Endpoints that stay where they are are not touched; of those
// that go, requests under way are answered.
func (s *Server) Use(p *plan.Plan) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("admin: already closed")
	}
	next := s.open
	var errs []error
	for slot, place := range placesOf(p) {
		old := s.open[slot]
		if old.at(place) {
			continue
		}
		next[slot] = nil
		if place == nil {
			continue
		}
		ln, err := place.listen(s.open)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		next[slot] = &endpoint{Listener: ln, place: place}
	}
	if err := errors.Join(errs...); err != nil {
		for slot, e := range next {
			if e != s.open[slot] {
				_ = e.Close()
			}
		}
		return err
	}
	for slot, e := range next {
		if e != s.open[slot] {
			s.retire(s.open[slot])
			s.serve(slot, e)
		}
	}
	s.open = next
	return nil
}

// serve answers on e until it is retired.
func (s *Server) serve(slot int, e *endpoint) {
	if e == nil {
		return
	}
	var ln net.Listener = e
	switch slot {
	case probeSlot:
		e.srv, ln = s.probeServer(), &probeListener{e, s.probes}
	case adminSlot:
		e.srv = s.webServer()
	case controlSlot:
		e.srv = s.apiServer()
	}
	s.serving.Go(func() {
		err := e.srv.Serve(ln)
		if !errors.Is(err, http.ErrServerClosed) && !e.closed.Load() {
			s.o.Log.Error("an endpoint stopped answering", "on", e.place, "error", err)
		}
	})
}

// retire closes e and gives requests under way their time, without waiting: the
// request may be the reload that we are part of.
func (s *Server) retire(e *endpoint) {
	if e == nil {
		return
	}
	_ = e.Close()
	s.serving.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, s.limits.grace)
		defer cancel()
		if e.srv.Shutdown(ctx) != nil {
			_ = e.srv.Close()
		}
	})
}

// closeGrace is what requests under way get when the daemon ends.
const closeGrace = 500 * time.Millisecond

// Close closes all endpoints. It returns when every goroutine of the server's
// has ended.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for slot, e := range s.open {
		s.retire(e)
		s.open[slot] = nil
	}
	s.mu.Unlock()
	defer s.stop()
	timer := time.AfterFunc(closeGrace, s.stop)
	defer timer.Stop()
	s.serving.Wait()
	return nil
}

// server is an HTTP server with what all three have in common.
func (s *Server) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: s.limits.header,
		IdleTimeout:       s.limits.idle,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.o.Log.Handler(), slog.LevelWarn),
	}
}
