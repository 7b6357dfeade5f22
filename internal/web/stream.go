package web

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"midspan/internal/plan"
	"midspan/internal/web/h1"
)

// stream is a request that net/http serves, and what becomes of it.
type stream struct {
	Exchange
	c      *conn
	rules  *rules
	target target
	cookie string
	url    *url.URL // what the server gets
	tried  []Endpoint
	ep     Endpoint // in use
	dial   dial
	owned  bool // connections to servers are for this client only

	ctx    context.Context
	cancel context.CancelCauseFunc
	failed error // why the response's body could not be read

	mu    sync.Mutex  // guards what follows: the body may be read after the end
	timer *time.Timer // of the response's head; nil: none
	ended bool
	up    int64 // bytes of the body that were read
	short error // why it could not be read
}

type streamKey struct{}

func streamOf(ctx context.Context) *stream { return ctx.Value(streamKey{}).(*stream) }

// errNoResponse is why a request is given up whose response takes too long.
var errNoResponse = errors.New("no response in time")

// ServeHTTP serves one request.
func (s *netServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		panic(http.ErrAbortHandler)
	}
	defer s.running.Done()
	defer func() { s.rests.Store(time.Now().UnixNano()) }()
	s.requests.Add(1)
	x := &stream{c: s.c, rules: s.c.p.rules.Load()}
	x.Start = time.Now()
	x.dial.from = s.c.from
	x.From, x.Method, x.Host, x.Protocol = s.c.from, []byte(r.Method), []byte(r.Host), r.Proto
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), streamKey{}, x))
	x.ctx, x.cancel = context.WithValue(ctx, dialKey{}, &x.dial), cancel
	x.Reason = ClientReset // if there is a panic, which ends the stream, and nothing else was found
	defer x.done()
	out := &counting{ResponseWriter: w, x: x}
	if err := x.prepare(r); err != nil {
		x.Reason, x.Err = BadRequest, err
		out.answer(err.Status, err.Text)
		return
	}
	if x.target.empty {
		x.Reason = NoRoute
		out.answer(statusOf[NoRoute], string(NoRoute))
		return
	}
	r = r.WithContext(x.ctx)
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		r.Body = &requestBody{ReadCloser: r.Body, x: x}
	} else {
		x.sent()
	}
	x.Reason = Done
	defer func() {
		if e := recover(); e != nil {
			x.broken()
			if !r.ProtoAtLeast(1, 1) { // a close would look like the end of the body
				x.c.reset()
			}
			panic(e)
		}
	}()
	s.proxy.ServeHTTP(out, r)
}

// prepare checks what net/http leaves unchecked, and chooses the servers.
func (x *stream) prepare(r *http.Request) *h1.Error {
	path := r.RequestURI
	if !strings.HasPrefix(path, "/") && path != "*" {
		path = r.URL.RequestURI()
	}
	x.Path = []byte(path)
	switch {
	case r.Method == http.MethodConnect || r.Header[":protocol"] != nil:
		return h1.ErrMethod
	case !h1.ValidHost(x.Host) || r.Host == "" && r.ProtoAtLeast(1, 1):
		return h1.ErrHost
	case !h1.ValidTarget(x.Path) || path == "*" && r.Method != http.MethodOptions:
		return h1.ErrTarget
	case x.tooLarge(r):
		return h1.ErrTooLarge
	}
	x.target = x.rules.match(x.Host, x.Path)
	if x.url = urlOf(string(x.target.appendPath(nil, x.Path))); x.url == nil {
		return h1.ErrTarget
	}
	if x.target.cookie != "" {
		for _, field := range r.Header["Cookie"] {
			if s := x.rules.servers[cookieIn(field, x.target.cookie)]; s != "" {
				x.cookie = s
				break
			}
		}
	}
	x.owned = x.rules.private
	for _, field := range r.Header["Authorization"] {
		x.owned = x.owned || ofConnection([]byte(field))
	}
	return nil
}

// tooLarge tells whether the head is above the route's limit, counted as HTTP/1.1
// would write it. To net/http the limit is twice that: it does not answer a field
// above its own in HTTP/2, but ends the connection with all requests on it.
func (x *stream) tooLarge(r *http.Request) bool {
	const line, field = len("  HTTP/1.1\r\n\r\n"), len(": \r\n")
	size := line + len(r.Method) + len(x.Path) + len("Host") + field + len(r.Host)
	for n, values := range r.Header {
		for _, v := range values {
			size += len(n) + field + len(v)
		}
	}
	return size > x.rules.MaxHeader
}

// urlOf is a URL that is written as exactly that path; nil: there is none. What
// net/url makes of a path may be another one: it decodes an encoded slash if it
// finds a byte that it would have encoded.
func urlOf(path string) *url.URL {
	if !strings.HasPrefix(path, "//") {
		return &url.URL{Opaque: path}
	}
	if u, err := url.ParseRequestURI(path); err == nil && u.RequestURI() == path {
		return u
	}
	return nil
}

// rewrite makes the request that the server gets.
func rewrite(r *httputil.ProxyRequest) {
	x := streamOf(r.In.Context())
	h := r.Out.Header
	r.Out.URL = x.url
	r.Out.URL.Scheme = "http"
	r.Out.Trailer = r.In.Trailer // not a copy: it is filled when the body has been read
	h.Del("Upgrade")             // there is nothing to upgrade on either side
	if h.Get("Te") == "" {
		h.Del("Connection")
	}
	x.forwarded(r.In.Header, h)
	x.rules.request.strip(h)
	for _, f := range x.rules.SetRequest {
		h.Set(f.Name.V, f.Value.V)
	}
}

// forwarded says who the client is.
func (x *stream) forwarded(in, out http.Header) {
	if x.rules.Forwarded == plan.ForwardedReplace {
		for n := range out {
			switch h1.KindOf([]byte(n)) {
			case h1.Forwarded, h1.XFor, h1.XProto, h1.XHost:
				delete(out, n)
			}
		}
	} else {
		for _, n := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
			if v := in[n]; v != nil {
				out[n] = v
			}
		}
	}
	if x.rules.Forwarded == plan.ForwardedOff {
		return
	}
	before := out["X-Forwarded-For"]
	out["X-Forwarded-For"] = []string{strings.Join(append(before[:len(before):len(before)], string(x.c.addr)), ", ")}
	if out.Get("X-Forwarded-Proto") == "" {
		proto := "http"
		if x.From.TLS {
			proto = "https"
		}
		out.Set("X-Forwarded-Proto", proto)
	}
	if out.Get("X-Forwarded-Host") == "" && len(x.Host) > 0 {
		out.Set("X-Forwarded-Host", string(x.Host))
	}
}

// tripper sends a request to a server.
type tripper struct{}

// RoundTrip implements http.RoundTripper. net/http itself repeats what may be on
// a kept connection that was closed; other servers are tried here.
func (tripper) RoundTrip(r *http.Request) (*http.Response, error) {
	x := streamOf(r.Context())
	defer x.waited()
	for {
		ep, err := x.rules.up.Pick(x.From, x.target.group, x.cookie, x.tried)
		if err != nil {
			if x.Reason = unpicked(err); len(x.tried) > 0 {
				x.Reason, err = ConnectFailed, x.Err
			}
			return nil, err
		}
		x.ep, x.Server, x.Endpoint = ep, ep.Server(), ep.Addr()
		resp, err := x.over(ep, r)
		var dial *dialError
		if !errors.As(err, &dial) || r.Context().Err() != nil {
			x.Connect = time.Duration(x.dial.took.Load())
			if err == nil {
				x.Err = nil
				x.Wait = time.Since(x.Start)
				resp.Body = &responseBody{resp.Body, x}
			}
			return resp, err
		}
		ep.Done()
		x.ep, x.Err = nil, dial.error
		x.tried = append(x.tried, ep)
		x.Retries++
	}
}

func (x *stream) over(ep Endpoint, r *http.Request) (*http.Response, error) {
	out := *r
	u := *r.URL
	// All connections of a transport are to one endpoint; so this is only a
	// name, and not what is connected to.
	u.Host = "server"
	out.URL = &u
	if out.Host = string(appendHost(nil, x.rules, x.Host, x.Server)); out.Host == "" {
		out.Host = x.Server
	}
	k := tripKey{ep: ep, h2: x.rules.H2, maxHead: x.rules.MaxHeader}
	if x.owned {
		k.owner = x.c
	}
	return x.c.p.h2.transport(k, x.Start).RoundTrip(&out)
}

func modifyResponse(r *http.Response) error {
	x := streamOf(r.Request.Context())
	if len(r.Trailer) > 0 {
		r.Header.Del("Content-Length") // in HTTP/1.1 only chunked bodies have trailers
	}
	x.rules.response.strip(r.Header)
	for _, f := range x.rules.SetResponse {
		r.Header.Set(f.Name.V, f.Value.V)
	}
	if x.target.cookie != "" && x.cookie != x.Server {
		r.Header.Add("Set-Cookie", string(appendSticky(nil, x.rules, x.target.cookie, x.Server, x.From.TLS)))
	}
	return nil
}

// failStream answers what got no response.
func failStream(w http.ResponseWriter, r *http.Request, err error) {
	x := streamOf(r.Context())
	switch {
	case x.Reason != Done: // RoundTrip knows
	case context.Cause(x.ctx) == errNoResponse:
		x.Reason, err = Timeout, errNoResponse
	case x.bodyError() != nil || r.Context().Err() != nil:
		x.Reason = ClientReset
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		x.Reason = ServerClosed
	default:
		x.Reason = BadResponse
	}
	x.Err = err
	status := statusOf[x.Reason]
	if status == 0 {
		panic(http.ErrAbortHandler)
	}
	w.(*counting).answer(status, string(x.Reason))
}

// broken tells why a response was not sent whole.
func (x *stream) broken() {
	switch {
	case x.Reason != Done:
	case x.c.aborted.Load():
		x.Reason = Aborted
	case x.failed != nil && x.ctx.Err() == nil:
		x.Reason, x.Err = ServerReset, x.failed
		if errors.Is(x.failed, io.ErrUnexpectedEOF) {
			x.Reason = ServerClosed
		}
	default:
		x.Reason = ClientReset
	}
}

// done ends the request and records it.
func (x *stream) done() {
	x.waited()
	x.cancel(nil)
	if x.ep != nil {
		x.ep.Done()
	}
	if record := x.c.p.record; record != nil {
		x.Duration = time.Since(x.Start)
		x.mu.Lock()
		x.BytesUp = x.up
		x.mu.Unlock()
		record(&x.Exchange)
	}
}

// sent says that the whole request is on its way: now the response is waited
// for.
func (x *stream) sent() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t := x.rules.responseTimeout; t > 0 && !x.ended && x.timer == nil {
		x.timer = time.AfterFunc(t, func() { x.cancel(errNoResponse) })
	}
}

// waited says that there is a response, or will be none.
func (x *stream) waited() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended = true; x.timer != nil {
		x.timer.Stop()
	}
}

func (x *stream) bodyError() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.short
}

// requestBody counts, and finds out whose fault an end is.
type requestBody struct {
	io.ReadCloser
	x *stream
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.x.mu.Lock()
	b.x.up += int64(n)
	if err != nil && err != io.EOF {
		b.x.short = err
	}
	b.x.mu.Unlock()
	if err == io.EOF {
		b.x.sent()
	}
	return n, err
}

type responseBody struct {
	io.ReadCloser
	x *stream
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.x.failed = err
	}
	return n, err
}

// counting is a ResponseWriter that remembers what was written.
type counting struct {
	http.ResponseWriter
	x *stream
}

// Unwrap is for http.ResponseController.
func (w *counting) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *counting) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.x.Status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *counting) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.x.BytesDown += int64(n)
	return n, err
}

func (w *counting) answer(status int, why string) {
	body := strconv.Itoa(status) + " " + http.StatusText(status) + ": " + why + "\n"
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	io.WriteString(w, body)
}
