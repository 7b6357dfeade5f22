package brokers

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// script is a broker that answers requests, one after another, with what each of its
// steps makes of the version; nil: it closes.
type script []func(version int16) []byte

// serve runs a broker on loopback and returns a connection to it.
func serve(t *testing.T, over *tls.Config, s script) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if over != nil {
			c = tls.Server(c, over)
		}
		s.run(c)
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (s script) run(c io.ReadWriter) {
	for _, answer := range s {
		head := make([]byte, 12) // size, key, version, correlation id
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		rest := make([]byte, binary.BigEndian.Uint32(head)-8)
		if _, err := io.ReadFull(c, rest); err != nil {
			return
		}
		if answer == nil {
			return
		}
		body := answer(int16(binary.BigEndian.Uint16(head[6:])))
		frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)+4))
		frame = append(append(frame, head[8:12]...), body...)
		if bytes.HasPrefix(body, []byte("raw:")) {
			frame = body[4:]
		}
		if _, err := c.Write(frame); err != nil {
			return
		}
	}
	_, _ = io.Copy(io.Discard, c.(io.Reader)) // until the other end closes
}

func raw(s string) func(int16) []byte { return func(int16) []byte { return []byte("raw:" + s) } }

// apis are an answer to ApiVersions of a broker that knows those versions of Metadata.
func apis(from, to int16) func(int16) []byte {
	return func(int16) []byte {
		a := kmsg.NewPtrApiVersionsResponse()
		for key, versions := range map[int16][2]int16{3: {from, to}, 18: {0, 4}} {
			k := kmsg.NewApiVersionsResponseApiKey()
			k.ApiKey, k.MinVersion, k.MaxVersion = key, versions[0], versions[1]
			a.ApiKeys = append(a.ApiKeys, k)
		}
		return a.AppendTo(nil)
	}
}

// nodes are an answer to Metadata.
func nodes(at ...Node) func(int16) []byte {
	return func(version int16) []byte {
		a := kmsg.NewPtrMetadataResponse()
		a.Version, a.ClusterID, a.ControllerID = version, kmsg.StringPtr("abc"), 2
		for _, n := range at {
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID, b.Host, b.Port = n.ID, n.Host, int32(n.Port)
			if n.Rack != "" {
				b.Rack = &n.Rack
			}
			a.Brokers = append(a.Brokers, b)
		}
		return a.AppendTo(nil)
	}
}

var three = []Node{{0, "k0.example", 9092, "a"}, {1, "10.0.0.1", 9093, ""}, {2147483647, "::1", 65535, "b"}}

// TestAsk: with brokers of many versions, plain and in TLS.
func TestAsk(t *testing.T) {
	server, roots := certificate(t)
	for _, max := range []int16{1, 2, 4, 5, 7, 8, 13} {
		for _, secure := range []bool{false, true} {
			var over *tls.Config
			if secure {
				over = server
			}
			conn := serve(t, over, script{apis(0, max), nodes(three...)})
			if secure {
				conn = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "broker.test"})
			}
			c, err := Ask(context.Background(), conn)
			if err != nil {
				t.Errorf("Metadata to %d, TLS %t: %v", max, secure, err)
				continue
			}
			id := "abc"
			if max == 1 {
				id = "" // the field is newer
			}
			if c.ID != id || c.Controller != 2 || !slices.Equal(c.Nodes, three) || len(c.APIs) != 2 {
				t.Errorf("Metadata to %d, TLS %t: %+v", max, secure, c)
			}
		}
	}
}

// TestErrors: each way in which a broker does not answer has its kind, and words
// that say what to look at.
func TestErrors(t *testing.T) {
	server, roots := certificate(t)
	_, others := certificate(t)
	old := &tls.Config{Certificates: server.Certificates, MaxVersion: tls.VersionTLS12}
	mutual := server.Clone()
	mutual.ClientAuth = tls.RequireAnyClientCert
	good := &tls.Config{RootCAs: roots, ServerName: "broker.test"}
	code := func(n int16) func(int16) []byte {
		return func(int16) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
	}
	for name, x := range map[string]struct {
		server, client *tls.Config
		script         script
		kind           Kind
		want           string
	}{
		"closes at once":       {nil, nil, script{nil}, Closed, "it may want TLS"},
		"wants SASL":           {nil, nil, script{apis(0, 13), nil}, WantsSASL, "it wants SASL first"},
		"says that it does":    {nil, nil, script{func(int16) []byte { return []byte{0, 34, 0, 0, 0, 0} }}, WantsSASL, "ILLEGAL_SASL_STATE"},
		"alert for plain text": {nil, nil, script{raw("\x15\x03\x03\x00\x02\x02\x28")}, WantsTLS, "answers in TLS, and was asked in plain text"},
		"web server":           {nil, nil, script{raw("HTTP/1.1 400 Bad Request\r\n\r\n")}, NotKafka, `"HTTP/1.1`},
		"another's answer":     {nil, nil, script{raw("\x00\x00\x00\x0a\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00")}, NotKafka, "does not speak Kafka's protocol"},
		"huge answer":          {nil, nil, script{raw("\x1f\xff\xff\xff\x00\x00\x00\x01")}, NotKafka, "does not speak Kafka's protocol"},
		"answer without an id": {nil, nil, script{raw("\x00\x00\x00\x03\x00\x00\x00\x01")}, NotKafka, "does not speak Kafka's protocol"},
		"cut short":            {nil, nil, script{func(int16) []byte { return []byte{0, 0, 0, 0, 0, 9, 1} }}, NotKafka, "ApiVersions: the broker does not speak"},
		"refuses":              {nil, nil, script{func(int16) []byte { return append(code(31)(0), 0, 0, 0, 0) }}, Refused, "error 31 (CLUSTER_AUTHORIZATION_FAILED)"},
		"too new":              {nil, nil, script{apis(9, 20)}, OtherVersions, "versions 9 to 20"},
		"too old":              {nil, nil, script{apis(0, 0)}, OtherVersions, "versions 0 to 0"},
		"a controller":         {nil, nil, script{func(int16) []byte { return make([]byte, 6) }}, OtherVersions, "is this the listener of a controller?"},
		"nonsense at Metadata": {nil, nil, script{apis(0, 8), raw("\x00\x00\x00\x04\x00\x00\x00\x02")}, NotKafka, "Metadata"},
		"node without a host":  {nil, nil, script{apis(0, 8), nodes(Node{ID: 4, Port: 9092})}, NotKafka, `names node 4 at "" port 9092`},
		"node without a port":  {nil, nil, script{apis(0, 8), nodes(Node{ID: 4, Host: "a"})}, NotKafka, `names node 4 at "a" port 0`},
		"node below 0":         {nil, nil, script{apis(0, 8), nodes(Node{ID: -1, Host: "a", Port: 1})}, NotKafka, "names node -1"},
		"text for TLS":         {nil, good, script{raw("220 mail.example ESMTP\r\n")}, NoTLS, `does not speak it: it answers "220 m"`},
		"closes for TLS":       {nil, good, script{raw("")}, Closed, "closed the connection: it may not speak TLS"},
		"wrong name":           {server, &tls.Config{RootCAs: roots, ServerName: "other.test"}, nil, BadTLS, "is not trusted: certificate is valid for broker.test, not other.test"},
		"unknown CA":           {server, &tls.Config{RootCAs: others, ServerName: "broker.test"}, nil, BadTLS, "is not trusted"},
		"TLS too old":          {old, &tls.Config{RootCAs: roots, ServerName: "broker.test", MinVersion: tls.VersionTLS13}, nil, BadTLS, "refuses the handshake: protocol version not supported"},
		"wants a certificate":  {mutual, good, script{nil}, BadTLS, "certificate required"},
	} {
		conn := serve(t, x.server, x.script)
		if strings.Contains(name, " for ") {
			conn = once(t, string(x.script[0](0)[len("raw:"):]))
		}
		if x.client != nil {
			conn = tls.Client(conn, x.client)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		c, err := Ask(ctx, conn)
		cancel()
		if KindOf(err) != x.kind || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %q: %v\nwant %q: %s", name, KindOf(err), err, x.kind, x.want)
		}
		if name == "wants SASL" && len(c.APIs) != 2 {
			t.Errorf("what the broker knows is lost: %+v", c)
		}
	}
	if KindOf(errors.New("x")) != "" || KindOf(nil) != "" {
		t.Error("another error has a kind")
	}
}

// once is a connection to a server that says something and closes, whatever it hears.
func once(t *testing.T, text string) net.Conn {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		_, _ = there.Read(make([]byte, 64<<10)) // the request
		_, _ = io.WriteString(there, text)
	}()
	t.Cleanup(func() { here.Close() })
	return here
}

// TestTimeout: a broker that is silent, or stops in the middle, holds nobody up
// longer than the context, in TLS too.
func TestTimeout(t *testing.T) {
	for name, x := range map[string]struct {
		script script
		secure bool
	}{
		"silent":        {nil, false},
		"silent in TLS": {nil, true},
		"half a size":   {script{raw("\x00\x00")}, false},
		"half a body":   {script{raw("\x00\x00\x00\x20\x00\x00\x00\x01\x00\x00")}, false},
		"half way":      {script{apis(0, 8)}, false},
	} {
		conn := serve(t, nil, x.script)
		if x.secure {
			conn = tls.Client(conn, &tls.Config{ServerName: "a"})
		}
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		began := time.Now()
		_, err := Ask(ctx, conn)
		cancel()
		if KindOf(err) != Timeout || time.Since(began) > 20*time.Second {
			t.Errorf("%s: after %s: %v", name, time.Since(began), err)
		}
	}
}

func TestNames(t *testing.T) {
	for key, want := range map[int16]string{0: "Produce", 3: "Metadata", 18: "ApiVersions", 9999: ""} {
		if got := (API{Key: key}).Name(); got != want {
			t.Errorf("%d is %q, want %q", key, got, want)
		}
	}
}

// FuzzAnswers: whatever a broker answers, Ask ends, sets aside little, and returns
// only nodes that can be connected to.
func FuzzAnswers(f *testing.F) {
	frame := func(id int32, body []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(body)+4))
		return append(binary.BigEndian.AppendUint32(b, uint32(id)), body...)
	}
	for _, v := range []int16{1, 8} {
		f.Add(append(frame(1, apis(0, v)(0)), frame(2, nodes(three...)(v))...))
	}
	f.Add(frame(1, []byte{0, 0, 0x7f, 0xff, 0xff, 0xff}))
	f.Add(append(frame(1, apis(0, 1)(0)), frame(2, []byte{0, 0, 1, 0})...))
	f.Fuzz(func(t *testing.T, answers []byte) {
		conn := &canned{in: bytes.NewReader(answers)}
		c, err := Ask(context.Background(), conn)
		if err != nil && KindOf(err) == "" {
			t.Errorf("an error of no kind: %v", err)
		}
		for _, n := range c.Nodes {
			if n.ID < 0 || n.Host == "" || n.Port == 0 {
				t.Errorf("node %+v", n)
			}
		}
	})
}

// canned is a connection to a broker whose answers are known.
type canned struct {
	net.Conn
	in io.Reader
}

func (c *canned) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *canned) Write(p []byte) (int, error) { return len(p), nil }

// certificate is a server that calls itself broker.test, and who trusts it.
func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"broker.test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, roots
}
