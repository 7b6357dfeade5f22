package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
	"midspan/internal/kafka"
)

// handshakeTime is how long a client may take for the TLS handshake.
const handshakeTime = 10 * time.Second

// carry carries the connection, once it has its client's leg.
func (s *session) carry() {
	if !s.shakeHands() || !s.enter("connecting") {
		return
	}
	server := s.findServer()
	if server == nil {
		return
	}
	if s.p.set.Kafka != nil {
		s.kafka = s.startKafka(server)
	}
	flows := make(chan struct{})
	go func() {
		defer close(flows)
		defer s.guard()
		s.flow(s.clients, server, false)
	}()
	s.flow(server, s.clients, true)
	<-flows
	s.passReset()
}

// shakeHands speaks TLS with the client, if the route does. When it fails the
// client is told, and the session is over.
func (s *session) shakeHands() bool {
	front := s.p.set.tls.Clients
	if front == nil {
		return true
	}
	g := s.clients
	_ = g.tcp.SetDeadline(time.Now().Add(handshakeTime)) // of an open connection
	g.tls = tls.Server(&g.wire, front.Config())
	err := g.tls.Handshake()
	s.sawName(g.serverName)
	if err != nil {
		s.refuse(g, err)
		return false
	}
	agreed := g.tls.ConnectionState()
	s.sawTLS(&agreed)
	if p := agreed.NegotiatedProtocol; p != "" {
		s.protocols = []string{p}
	}
	return g.tcp.SetDeadline(time.Time{}) == nil
}

// refuse ends the session because of a TLS handshake that failed.
func (s *session) refuse(g *leg, err error) {
	switch {
	case !g.got && !isTimeout(err): // as load balancers test whether somebody listens
		s.close(probe, "")
	case errors.Is(err, errHeader):
		s.refuseHeader()
	case isTimeout(err):
		s.close(openingTimeout, fmt.Sprintf("the TLS handshake was not complete in %s", handshakeTime))
		s.end(openingTimeout)
	case errno(err) != 0:
		s.end(resetByClient)
	default:
		text := tlsText(err)
		if s.p.set.Kafka != nil && isPlainKafka(err) {
			text = "the client speaks Kafka in plain text, and this port TLS; set the client's security.protocol to SSL or SASL_SSL"
		}
		s.close(tlsFailed, text)
		s.part(g)
	}
}

// refuseHeader ends the session because a PROXY header came that must not.
func (s *session) refuseHeader() {
	s.close(proxyNotAllowed, headerText(s.p.set))
	s.end(proxyNotAllowed)
}

// close has the session end without a reset, and says why in the log.
func (s *session) close(why reason, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.p.endedBy = why
	if text != "" {
		s.l.tell(&s.p, why, text)
	}
}

// sawTLS notes what was agreed on with the client.
func (s *session) sawTLS(c *tls.ConnectionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p.call == nil {
		s.p.call = &caller{}
	}
	s.p.call.tls = &engine.TLS{
		Version: strings.TrimPrefix(tls.VersionName(c.Version), "TLS "), Cipher: tls.CipherSuiteName(c.CipherSuite),
		Protocol: c.NegotiatedProtocol, Resumed: c.DidResume,
	}
}

// sawName notes the server name that the client asked for in TLS.
func (s *session) sawName(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" {
		return
	}
	if s.p.call == nil {
		s.p.call = &caller{}
	}
	s.p.call.serverName = name
}

// part ends the flow to a client, and throws away what it still says.
func (s *session) part(g *leg) {
	if g.tcp.CloseWrite() == nil && g.tcp.SetReadDeadline(time.Now().Add(partLinger)) == nil {
		_, _ = io.CopyN(io.Discard, g.tcp, 1<<20)
	}
}

// move copies one of the two flows until it ends or fails.
func (s *session) move(to, from *leg, up bool) error {
	if s.kafka != nil {
		return s.kafka.move(up)
	}
	return move(to, from, func(n int) { s.moved(up, n) })
}

// flow moves one of the two flows, and deals with its end.
func (s *session) flow(to, from *leg, up bool) {
	err := s.move(to, from, up)
	s.mu.Lock()
	var failed writeError
	var broken *kafka.Error
	switch {
	case s.over || s.lost != nil:
	case err == io.EOF && !from.dead:
		s.flowEnded(from)
		s.mu.Unlock()
		_ = to.CloseWrite() // if it has failed, so does the other flow
		return
	case err == errHeader:
		s.mu.Unlock()
		s.refuseHeader()
		return
	case err == errHeld || errors.As(err, &broken):
		s.mu.Unlock()
		s.breakOff(err)
		return
	case errors.As(err, &failed):
		// What a server that is found reset sent before, such as an error message,
		// is in its receive queue: it is passed on first, by the other flow.
		to.dead = true
		if e := errno(err); to.ended || (e != unix.ECONNRESET && e != unix.EPIPE) {
			s.lose(to, err)
		}
	default:
		s.lose(from, err)
	}
	s.mu.Unlock()
}

// flowEnded notes the end of the flow of g.
func (s *session) flowEnded(g *leg) {
	g.ended = true
	s.halved(g == s.clients)
}

// halved follows on the end of the client's flow, or of the server's; s.mu is held.
func (s *session) halved(byClient bool) {
	if s.over {
		return
	}
	s.lastMove.Store(int64(s.now())) // fin_timeout counts from here, however long the rest before
	if first := !s.p.client.eof && !s.p.server.eof; byClient {
		s.p.client.eof = true
		if first {
			s.p.endedBy = closedByClient
		}
	} else {
		s.p.server.eof = true
		if first {
			s.p.endedBy = closedByServer
		}
	}
	s.arm()
}

// lose gives up g, which has failed: it is reset or lost. The flow to it ends,
// and what reads from the other leg is woken.
func (s *session) lose(g *leg, err error) {
	s.lost = g
	other, reset, lost := s.servers, resetByClient, lostClient
	if g == s.servers {
		other, reset, lost = s.clients, resetByServer, lostServer
	}
	s.p.endedBy = reset
	switch e := errno(err); e {
	case unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN:
		s.p.endedBy = lost
	case 0: // nothing of TCP's
		if err != io.EOF {
			s.p.mishap().lastErr = tlsText(err)
		}
	}
	g.reset()
	_ = other.SetReadDeadline(past) // fails where it is closed
}

// passReset resets the leg that is left, once its peer has what was sent before.
func (s *session) passReset() {
	s.mu.Lock()
	left := s.clients
	if s.lost == left {
		left = s.servers
	}
	none := s.lost == nil
	s.mu.Unlock()
	if none {
		return
	}
	for giveUp := time.Now().Add(resetLinger); left.unsent() > 0 && time.Now().Before(giveUp); {
		time.Sleep(5 * time.Millisecond)
	}
	left.reset()
}

// errno is the kernel's error in err; 0: there is none.
func errno(err error) unix.Errno {
	var e unix.Errno
	errors.As(err, &e)
	return e
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// versionNames are those of the numbers that crypto/tls writes (RFC 8446, section
// 4.2.1).
var versionNames = strings.NewReplacer("[", "", "]", "", "304", "TLS 1.3", "303", "TLS 1.2", "302", "TLS 1.1", "301", "TLS 1.0", "300", "SSL 3.0")

// tlsText is an error of crypto/tls in words for who reads the log.
func tlsText(err error) string {
	var record tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	switch text := strings.ReplaceAll(err.Error(), "tls: ", ""); {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return "ended during the handshake"
	case errors.As(err, &record):
		return fmt.Sprintf("%s; it begins with %q", record.Msg, record.RecordHeader[:])
	case errors.As(err, &verify):
		return verify.Err.Error()
	case text == "client didn't provide a certificate":
		return "client sent no certificate"
	case strings.HasPrefix(text, "client offered only unsupported versions: "):
		return versionNames.Replace(text)
	default:
		return text
	}
}
