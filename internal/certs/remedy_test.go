package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
)

func TestRemedy(t *testing.T) {
	valid := func(names ...string) error {
		return &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{DNSNames: names}, Host: "10.0.0.5"}}
	}
	for want, err := range map[string]error{
		"; if that is the right server, write upstream_tls: {name: reports.corp}":                               valid("reports.corp", "x.corp"),
		"; if that is the right server, write upstream_tls: {name: any.corp}":                                   valid("*.corp"),
		"; if that is the right server, write upstream_tls: {name: …}":                                          valid("a}\nb"),
		"; if that is the right server, write a name that its certificate has as upstream_tls: {name: …}":       valid(),
		"; if that is the right server, write the certificate of who signs its as upstream_tls: {ca: file.pem}": &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
		"; write one that the server takes as upstream_tls: {cert: file.pem}":                                   &net.OpError{Op: "remote error", Err: tls.AlertError(116)},
		"": io.EOF,
	} {
		if got := Remedy(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
	if got := Remedy(errors.New("x509: certificate has expired")); got != "" {
		t.Errorf("%q", got)
	}
	if got := Remedy(nil); got != "" {
		t.Errorf("nothing wrong: %q", got)
	}
}
