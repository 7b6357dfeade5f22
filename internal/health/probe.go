package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"midspan/internal/plan"
)

const (
	userAgent = "midspan-check"

	// maxAnswer bounds what is read of an answer, header and body.
	maxAnswer = 64 << 10
	// maxInterim bounds the 1xx answers before the real one.
	maxInterim = 4
	// linger is how long a test waits for the server's own close. A server that
	// greets its clients needs one round trip to see that this one has gone.
	linger = 200 * time.Millisecond
)

// wire is the probe over real connections.
type wire struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (w wire) probe(ctx context.Context, t Target) (time.Duration, error) {
	addr := t.Addr
	if t.Check.Port != 0 {
		addr = netip.AddrPortFrom(addr.Addr(), t.Check.Port)
	}
	began := time.Now()
	conn, err := w.dial(ctx, "tcp", addr.String())
	if err != nil {
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			return 0, fmt.Errorf("connect: %w", errno) // ownShortage looks at it
		}
		return 0, fmt.Errorf("connect: %s", words(err, time.Since(began)))
	}
	defer conn.Close()
	// Reads and writes know deadlines but no context: this is how Close and the
	// end of the timeout reach them.
	hangUp := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer hangUp()

	if t.Check.Kind == plan.CheckHTTP {
		rest, err := askHTTP(conn, t)
		latency := time.Since(began)
		if rest != nil {
			readOut(ctx, conn, rest)
		}
		if err != nil {
			return 0, fmt.Errorf("http: %s", words(err, latency))
		}
		return latency, nil
	}
	latency := time.Since(began)
	if c, ok := conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		readOut(ctx, conn, conn)
	}
	return latency, nil
}

// readOut reads what a server still has to say until it closes, within bounds. A
// close over unread bytes (the greeting of a mail or database server, the rest
// of a page) would be a reset, which some servers log and hold against the
// client.
func readOut(ctx context.Context, conn net.Conn, r io.Reader) {
	soon := time.Now().Add(linger)
	if d, ok := ctx.Deadline(); ok && d.Before(soon) {
		soon = d
	}
	conn.SetReadDeadline(soon)
	if ctx.Err() != nil { // hangUp may have run before the line above undid it
		return
	}
	io.CopyN(io.Discard, r, maxAnswer)
}

var (
	errNoAnswer = errors.New("closed without an answer")
	errCutShort = errors.New("the answer is cut short")
	errNotHTTP  = errors.New("the answer is not HTTP")
)

// askHTTP sends the request of an HTTP test and reads the answer's header. The
// error is nil if its status says up. If there was an answer, what is left of it
// is in rest.
func askHTTP(conn net.Conn, t Target) (rest io.Reader, err error) {
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		t.Check.Path, hostHeader(t), userAgent)
	if err != nil {
		return nil, err
	}
	raw := &noting{r: io.LimitReader(conn, maxAnswer)}
	buffered := bufio.NewReader(raw)
	answer, err := readHeader(buffered)
	switch {
	case err == nil:
	case raw.n == 0 && errors.Is(raw.err, io.EOF):
		return nil, errNoAnswer
	case errors.Is(raw.err, io.EOF):
		return nil, errCutShort
	case raw.err != nil:
		return nil, raw.err
	default:
		return buffered, err
	}
	if answer.StatusCode < 200 || answer.StatusCode > 399 {
		err = fmt.Errorf("status %d", answer.StatusCode)
	}
	return buffered, err
}

// noting is r with what came of it. The parser takes bytes that end without a
// line's end for a bad line and hides why there are no more.
type noting struct {
	r   io.Reader
	n   int
	err error
}

func (r *noting) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += n
	r.err = err
	return n, err
}

func readHeader(r *bufio.Reader) (*http.Response, error) {
	for range maxInterim {
		answer, err := http.ReadResponse(r, nil)
		switch {
		case err != nil:
			return nil, errNotHTTP
		case answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols:
			return answer, nil
		}
	}
	return nil, errNotHTTP
}

// hostHeader is the Host of the request. A default port is not looked for: the
// name is what virtual hosts are told apart by.
func hostHeader(t Target) string {
	host := t.Check.Host
	if host == "" {
		host = t.Host
	}
	if host == "" {
		host = t.Addr.Addr().WithZone("").String()
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	return host
}

// words are what went wrong, as the operating system puts it: the line around
// them names the address already.
func words(err error, after time.Duration) string {
	var errno syscall.Errno
	var wire net.Error
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &wire) && wire.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer in %s", after.Round(time.Millisecond))
	}
	return err.Error()
}

// connectWords are words for a connect that the data path tells of.
func connectWords(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return "connect: " + errno.Error()
	}
	if text := err.Error(); strings.HasPrefix(text, "connect") {
		return text
	}
	return "connect: " + err.Error()
}
