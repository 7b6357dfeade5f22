package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
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
