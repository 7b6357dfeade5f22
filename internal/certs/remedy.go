package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// Remedy is what the file may say against an error of a TLS handshake with a
// server, to be put behind it: "; …" or, where it is not known, nothing.
func Remedy(err error) string {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &name):
		if c := name.Certificate; c != nil && len(c.DNSNames) > 0 {
			return fmt.Sprintf("; if that is the right server, write upstream_tls: {name: %s}", exact(c.DNSNames[0]))
		}
		return "; if that is the right server, write a name that its certificate has as upstream_tls: {name: …}"
	case errors.As(err, &authority):
		return "; if that is the right server, write the certificate of who signs its as upstream_tls: {ca: file.pem}"
	case err != nil && strings.HasSuffix(err.Error(), "tls: certificate required"): // an alert, RFC 8446, section 6.2
		return "; write one that the server takes as upstream_tls: {cert: file.pem}"
	}
	return ""
}

// PlainBroker is what to say of c's handshake with a Kafka broker that failed with
// err as it does where the broker speaks plain text; "": it failed otherwise. A broker
// takes the handshake's first bytes for the length of a request, which is too long,
// and ends the connection.
func PlainBroker(c *tls.Conn, err error) string {
	const remedy = "; take upstream_tls out, or use the port of its TLS listener"
	var record tls.RecordHeaderError
	cut := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	switch {
	case errors.As(err, &record):
		return "the broker speaks plain text" + remedy
	case cut && c.ConnectionState().Version == 0: // it has not even said hello
		return "the broker ended the connection at the handshake, as one does that speaks plain text" + remedy
	}
	return ""
}

// exact is a name that a certificate for name is good for: it may have a * for
// its first label. What a server sends must not look like anything but a name.
func exact(name string) string {
	if rest, wild := strings.CutPrefix(name, "*."); wild {
		name = "any." + rest
	}
	for _, c := range name {
		if c > '~' || c <= ' ' || strings.ContainsRune(`{}[]'",:#`, c) {
			return "…"
		}
	}
	return name
}
