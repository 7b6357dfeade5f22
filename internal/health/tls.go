package health

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"midspan/internal/certs"
	"midspan/internal/plan"
)

// tlsConfigs are the settings of routes that encrypt what they send to servers.
type tlsConfigs struct {
	mu  sync.Mutex
	all map[plan.UpstreamTLS]tlsRead
}

// tlsRead is what was made of files, and when.
type tlsRead struct {
	config *tls.Config
	at     time.Time
}

// readAgain is how long what files say is used before they are looked at anew.
const readAgain = 10 * time.Second

// get is what u says. As on the data path, files that have come to be wrong
// change nothing: what they said before stays in force.
func (c *tlsConfigs) get(u plan.UpstreamTLS) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, found := c.all[u]
	if found && time.Since(known.at) < readAgain {
		return known.config, nil
	}
	config, err := certs.Read(u)
	switch {
	case err != nil && !found:
		return nil, err
	case err != nil:
		config = known.config
	case !found && c.all == nil:
		c.all = map[plan.UpstreamTLS]tlsRead{}
	}
	c.all[u] = tlsRead{config, time.Now()}
	return config, nil
}

// forTarget is how a test speaks TLS: as the route does, where that encrypts;
// else with anything that calls itself a server of TLS, because whether a
// certificate is good is then between client and server.
func (c *tlsConfigs) forTarget(t Target) (*tls.Config, error) {
	if !t.Check.TLS.On {
		return &tls.Config{ServerName: tlsName(t), MinVersion: tls.VersionTLS10, InsecureSkipVerify: true}, nil
	}
	config, err := c.get(t.Check.TLS)
	if err != nil {
		return nil, err
	}
	config = config.Clone()
	config.ServerName = tlsName(t)
	config.ClientSessionCache = nil // a session that goes on shows no certificate
	return config, nil
}

// tlsName is the name that is asked for, and that the certificate must have.
func tlsName(t Target) string {
	switch {
	case t.Check.Kind == plan.CheckTLS && t.Check.Host != "":
		return t.Check.Host
	case t.Check.TLS.Name != "":
		return t.Check.TLS.Name
	}
	return hostOf(t)
}

// encrypt does a whole TLS handshake (RFC 8446, RFC 5246) as a client.
func (l *line) encrypt(c *tls.Config) error {
	asked := false
	if c.GetClientCertificate == nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return &tls.Certificate{}, nil
		}
	}
	conn := tls.Client(l.Conn, c)
	err := conn.Handshake()
	if err != nil {
		// A server that refuses us for want of a certificate is there and works: it
		// waits for clients who have one, and the test is none of them. (In TLS 1.3
		// it does so after the handshake.)
		// But where the route encrypts, it is what the clients depend on.
		if op := (*net.OpError)(nil); asked && !l.target.Check.TLS.On && l.target.Check.Kind == plan.CheckTLS && errors.As(err, &op) && op.Op == "remote error" {
			return nil
		}
		if text := certs.PlainBroker(conn, err); text != "" && l.target.Check.Kind == plan.CheckKafka {
			return errors.New(text)
		}
		return tlsWords(err)
	}
	l.tls = conn
	if asked && l.target.Check.TLS.On && l.target.Check.Kind == plan.CheckTLS {
		return l.letIn()
	}
	return nil
}

// letIn waits for what a server of TLS 1.3 says of a certificate that it asked for
// and did not get: it says so after the handshake (RFC 8446, section 4.4.2.4). One
// that takes us without may say nothing, until it sees that we leave.
func (l *line) letIn() error {
	left := l.tls.CloseWrite() // fails where the server has gone, with its word still to be read
	soon := time.AfterFunc(l.linger, func() { l.SetReadDeadline(time.Unix(1, 0)) })
	defer soon.Stop()
	_, err := l.tls.Read(make([]byte, 1))
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "remote error" {
		return tlsWords(err)
	}
	if left != nil {
		return tlsWords(left)
	}
	return nil
}

// tlsWords is an error of the handshake without the names of Go's packages.
func tlsWords(err error) error {
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &record):
		return unexpected("TLS", record.RecordHeader[:])
	case errors.As(err, &op) && op.Op == "remote error":
		return fmt.Errorf("the server refuses the handshake: %s", strings.TrimPrefix(op.Err.Error(), "tls: ")+certs.Remedy(err))
	case errors.As(err, &op):
		return err // of the connection
	}
	text := strings.TrimPrefix(err.Error(), "tls: ")
	text = strings.ReplaceAll(text, "failed to verify certificate: x509: ", "")
	if text == "EOF" {
		return errNoAnswer
	}
	return errors.New("handshake: " + text + certs.Remedy(err))
}
