package health

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"midspan/internal/plan"
)

// tlsConfig is how a test speaks TLS: as the route does, where it encrypts what
// it sends to servers; else with anything that calls itself a server of TLS,
// because whether a certificate is good is then between client and server.
//
// Files are read anew for each test, so that the test sees what is in them now.
func tlsConfig(t Target) (*tls.Config, error) {
	u := t.Check.TLS
	c := &tls.Config{ServerName: tlsName(t), MinVersion: tls.VersionTLS10, InsecureSkipVerify: !u.On || u.Insecure}
	if !u.On {
		return c, nil
	}
	c.MinVersion = tls.VersionTLS12
	if u.Min == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	if u.CA != "" {
		pem, err := os.ReadFile(u.CA)
		if err != nil {
			return nil, withPath(err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", u.CA)
		}
	}
	if u.Cert != "" {
		key := u.Key
		if key == "" {
			key = u.Cert
		}
		own, err := tls.LoadX509KeyPair(u.Cert, key)
		if err != nil {
			return nil, withPath(err)
		}
		c.Certificates = []tls.Certificate{own}
	}
	return c, nil
}

// withPath keeps words from making a mere errno of an error that names a file.
func withPath(err error) error {
	if ownShortage(err) {
		return err
	}
	return errors.New(err.Error())
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
	if len(c.Certificates) == 0 {
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
		if op := (*net.OpError)(nil); asked && l.target.Check.Kind == plan.CheckTLS && errors.As(err, &op) && op.Op == "remote error" {
			return nil
		}
		return tlsWords(err)
	}
	l.tls = conn
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
		return fmt.Errorf("the server refuses the handshake: %s", strings.TrimPrefix(op.Err.Error(), "tls: "))
	case errors.As(err, &op):
		return err // of the connection
	}
	text := strings.TrimPrefix(err.Error(), "tls: ")
	text = strings.ReplaceAll(text, "failed to verify certificate: x509: ", "")
	if text == "EOF" {
		return errNoAnswer
	}
	return errors.New("handshake: " + text)
}
