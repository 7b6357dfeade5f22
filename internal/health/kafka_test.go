package health

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"midspan/internal/plan"
)

// plainBroker takes what comes for a request's length, and ends the connection over
// one that is too long, with a reset or without.
func plainBroker(orderly bool) func(net.Conn) {
	return func(c net.Conn) {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		io.ReadFull(c, make([]byte, 4))
		if orderly {
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
		}
	}
}

// TestKafkaPairing: a broker that speaks TLS where we do not, or the reverse, is told
// from one that is broken.
func TestKafkaPairing(t *testing.T) {
	own, file := certificate(t, "web.example")
	encrypted := plan.UpstreamTLS{On: true, CA: file}
	speaksTLS := func(c net.Conn) {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{own}})
		if conn.Handshake() != nil {
			io.WriteString(c, "\x15\x03\x03\x00\x02\x02\x0a") // a fatal alert: unexpected_message
			io.Copy(io.Discard, c)
			return
		}
		if _, err := io.ReadFull(conn, make([]byte, len(kafkaQuestion()))); err == nil {
			io.WriteString(conn, kafkaAnswer(kafkaMark, 0, "\x00\x00\x00\x00"))
		}
		io.Copy(io.Discard, conn)
	}
	const cut = "kafka: the broker ended the connection at the handshake, as one does that speaks plain text; take upstream_tls out, or use the port of its TLS listener"
	for _, c := range []struct {
		name   string
		broker func(net.Conn)
		tls    plan.UpstreamTLS
		want   string
	}{
		{"both speak TLS", speaksTLS, encrypted, ""},
		{"the broker does", speaksTLS, plan.UpstreamTLS{}, "kafka: the broker speaks TLS; add upstream_tls to the route, or use the port of its plain listener"},
		{"the broker does not, and resets", plainBroker(false), encrypted, cut},
		{"the broker does not, and ends", plainBroker(true), encrypted, cut},
		{"the server answers with something else", answer("HTTP/1.1 400 Bad Request\r\n\r\n"), encrypted, "kafka: the broker speaks plain text; take upstream_tls out, or use the port of its TLS listener"},
	} {
		_, err := probeOnce(serve(t, c.broker), plan.Check{Kind: plan.CheckKafka, TLS: c.tls}, 5*time.Second)
		if got := textOf(err); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestNodeName: the certificate of a cluster's node is verified for the name that
// the cluster has for it.
func TestNodeName(t *testing.T) {
	r := &plan.Route{Listen: []plan.Listen{{From: 1, To: 1}}}
	s := &plan.Server{Name: "10.0.0.1:9092", Host: "10.0.0.1", Port: 9092}
	if got := TargetOf(r, s, netip.MustParseAddr("10.0.0.1")).Host; got != "10.0.0.1" {
		t.Errorf("host %q", got)
	}
	s.TLSName = "kafka1.corp"
	if got := TargetOf(r, s, netip.MustParseAddr("10.0.0.1")).Host; got != "kafka1.corp" {
		t.Errorf("host %q", got)
	}
}
