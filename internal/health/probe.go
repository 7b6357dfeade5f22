package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"midspan/internal/plan"
	"midspan/internal/proxyproto"
)

const (
	// ourName is what the test calls itself where a protocol asks for a program.
	ourName = "midspan-check"
	// ourUser is whom it logs in as, without a password. Nobody of that name needs
	// to exist.
	ourUser = "midspan"

	// maxAnswer bounds what is read of a server, in bytes.
	maxAnswer = 64 << 10
	// linger is how long a test waits for the server's own close. A server that
	// greets its clients needs one round trip to see that this one has gone.
	linger = 200 * time.Millisecond
)

// wire is the probe over real connections.
type wire struct {
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	linger time.Duration
	tls    tlsConfigs
}

func (w *wire) probe(ctx context.Context, t Target) (time.Duration, error) {
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

	l := &line{Conn: conn, target: t, linger: w.linger}
	err = l.ask(&w.tls)
	latency := time.Since(began)
	l.leave(ctx)
	if err != nil {
		return 0, fmt.Errorf("%s: %s", t.Check.Kind, words(err, latency))
	}
	return latency, nil
}

// line is the connection of one test.
type line struct {
	net.Conn           // plain TCP
	tls      *tls.Conn // over it, once TLS is spoken
	target   Target
	linger   time.Duration
}

// ask holds the conversation that the check's kind is. The error is nil if what
// the server says means that it can be used.
func (l *line) ask(configs *tlsConfigs) error {
	c := l.target.Check
	if err := l.introduce(c.SendProxy); err != nil {
		return err
	}
	if c.Kind == plan.CheckTLS || c.TLS.On {
		config, err := configs.forTarget(l.target)
		if err == nil {
			err = l.encrypt(config)
		}
		if err != nil || c.Kind == plan.CheckTLS {
			return err
		}
	}
	switch c.Kind {
	case plan.CheckHTTP:
		return askHTTP(l.talk(), l.target)
	case plan.CheckTDS:
		return askTDS(l.talk())
	case plan.CheckMySQL:
		return askMySQL(l.talk())
	case plan.CheckPostgres:
		return l.askPostgres()
	case plan.CheckKafka:
		return askKafka(l.talk())
	case plan.CheckRedis:
		return askRedis(l.talk())
	case plan.CheckExpect:
		return askExpect(l.talk(), c)
	}
	return nil // tcp: the connect was the test
}

// introduce says that this connection is the forwarder's own and nobody's: a
// server that wants PROXY headers refuses connections without one.
func (l *line) introduce(v plan.SendProxy) error {
	version := 2
	switch v {
	case plan.SendV1:
		version = 1
	case plan.SendV2:
	default:
		return nil
	}
	_, err := l.Write(proxyproto.Append(nil, version, netip.AddrPort{}, netip.AddrPort{}))
	return err
}

// talk is a conversation over l, encrypted or not.
func (l *line) talk() *talk {
	if l.tls != nil {
		return newTalk(l.tls)
	}
	return newTalk(l.Conn)
}

// leave ends the conversation in the way that a server takes for normal: it sees
// the end of ours, in TLS with the word for it, and may end its own before the
// connection is closed. A close over unread bytes (the greeting of a mail
// server, the rest of a page, a TLS session ticket) would be a reset, which some
// servers log and hold against the client.
func (l *line) leave(ctx context.Context) {
	if l.target.Check.Kind != plan.CheckHTTP { // to which half a close may mean that we want no page
		if l.tls != nil {
			l.tls.CloseWrite() // an error is one of a connection that is over
		}
		if c, ok := l.Conn.(interface{ CloseWrite() error }); !ok || c.CloseWrite() != nil {
			return
		}
	}
	soon := time.Now().Add(l.linger)
	if d, ok := ctx.Deadline(); ok && d.Before(soon) {
		soon = d
	}
	l.SetReadDeadline(soon)
	if ctx.Err() != nil { // hangUp may have run before the line above undid it
		return
	}
	io.CopyN(io.Discard, l.Conn, maxAnswer)
	if l.tls != nil {
		l.tls.Close()
	}
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
