package load

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Certificate is a new certificate for a name, signed by itself, and its key: a
// PEM file of both. The key is ECDSA's on P-256, the cheapest that all have.
func Certificate(name string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), nil
}

// ServeTLS is Serve behind TLS, with a goroutine for each connection: it answers
// until the process ends. Messages are not checked.
func ServeTLS(addr string) error {
	text, err := Certificate("target")
	if err != nil {
		return err
	}
	certificate, err := tls.X509KeyPair(text, text)
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", addr, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
	if err != nil {
		return err
	}
	zeros := make([]byte, bufferSize)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			// A client that has what it wanted ends the connection, in whatever state.
			for serveTLS(c, zeros) == nil {
			}
		}()
	}
}

// serveTLS reads a request and answers it.
func serveTLS(c net.Conn, zeros []byte) error {
	head := make([]byte, headerSize)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	h, err := decode(head)
	if err != nil {
		return err
	}
	if h.check {
		return errors.New("messages are not checked in TLS")
	}
	if _, err := io.CopyN(io.Discard, c, h.request-headerSize); err != nil {
		return err
	}
	for h.answer > 0 {
		n, err := c.Write(zeros[:min(int64(len(zeros)), h.answer)])
		if err != nil {
			return err
		}
		if h.answer != Endless {
			h.answer -= int64(n)
		}
	}
	return nil
}

// tlsClient is the state of a run in TLS: a goroutine for each connection, since
// the library is made for that. What it counts is what a run counts.
type tlsClient struct {
	spec   Spec
	config *tls.Config
	heads  [][]byte // the request of each step

	counted, stopped atomic.Bool
	down             atomic.Int64 // bytes counted

	mu      sync.Mutex
	open    map[net.Conn]bool
	latency histogram
	report  Report
}

func newTLSClient(spec Spec) (*tlsClient, error) {
	if spec.Check || spec.Hold || spec.Proxy || spec.Sessions > 0 && spec.Conns > 1 {
		return nil, errors.New("TLS is for windows, or a single connection")
	}
	c := &tlsClient{spec: spec, open: map[net.Conn]bool{}, config: &tls.Config{
		// The name is what a forwarder chooses by. To check the certificate would
		// cost the client alone.
		ServerName: spec.TLS, InsecureSkipVerify: true,
		// What OpenSSL and Go both have: the same work for everybody.
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
	}}
	for _, s := range spec.Steps {
		head := make([]byte, s.Send)
		header{false, s.Send, s.Receive}.encode(head)
		c.heads = append(c.heads, head)
	}
	return c, nil
}

// runTLS is Run for a Spec with TLS.
func runTLS(spec Spec, marks io.Writer) (Report, error) {
	c, err := newTLSClient(spec)
	if err != nil {
		return Report{}, err
	}
	began := time.Now()
	if spec.Sessions > 0 { // here, as the caller's thread may be in a namespace
		c.counted.Store(true)
		c.work()
		return c.result(time.Since(began)), nil
	}
	var all sync.WaitGroup
	for range spec.Conns {
		all.Go(c.work)
	}
	time.Sleep(spec.Warmup)
	_, err = fmt.Fprintln(marks, "begin")
	began = time.Now()
	c.counted.Store(true)
	time.Sleep(spec.Window)
	c.counted.Store(false)
	took := time.Since(began)
	_, ended := fmt.Fprintln(marks, "end")
	c.stop()
	all.Wait()
	return c.result(took), errors.Join(err, ended)
}

func (c *tlsClient) result(took time.Duration) Report {
	us := func(q float64) float64 { return float64(c.latency.quantile(q)) / 1e3 }
	c.report.BytesDown = c.down.Load()
	c.report.Seconds, c.report.P50, c.report.P99, c.report.P999 = took.Seconds(), us(0.5), us(0.99), us(0.999)
	return c.report
}

func (c *tlsClient) stop() {
	c.stopped.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		conn.Close()
	}
}

// work is one connection at a time.
func (c *tlsClient) work() {
	buffer := make([]byte, bufferSize)
	for n := 0; !c.stopped.Load() && (c.spec.Sessions == 0 || n < c.spec.Sessions); {
		had, err := c.connection(buffer, c.spec.Sessions-n)
		n += had
		if err == nil || c.stopped.Load() {
			continue
		}
		c.mu.Lock()
		if c.report.Errors++; c.report.Errors == 1 {
			c.report.Error = err.Error()
		}
		many := c.report.Errors >= tolerated
		c.mu.Unlock()
		if many || c.spec.Sessions > 0 {
			return
		}
	}
}

// connection has sessions on one connection: one, or, if they share it, most (0
// or less: until the end).
func (c *tlsClient) connection(buffer []byte, most int) (had int, err error) {
	began := time.Now()
	raw, err := net.DialTimeout("tcp", c.spec.Addr, stuck)
	if err != nil {
		return 0, err
	}
	defer raw.Close()
	c.mu.Lock()
	c.open[raw] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.open, raw)
		c.mu.Unlock()
	}()
	conn := tls.Client(raw, c.config)
	for {
		if err := c.session(conn, buffer, began); err != nil {
			return had, err
		}
		had++
		if c.spec.Reconnect || had == most || c.stopped.Load() {
			return had, conn.Close()
		}
		began = time.Now()
	}
}

// session has all steps on a connection, which may be new.
func (c *tlsClient) session(conn net.Conn, buffer []byte, began time.Time) error {
	for i, s := range c.spec.Steps {
		if err := conn.SetDeadline(time.Now().Add(stuck + c.spec.Warmup + c.spec.Window)); err != nil {
			return err
		}
		if _, err := conn.Write(c.heads[i]); err != nil {
			return err
		}
		for left := s.Receive; left > 0; {
			n, err := conn.Read(buffer[:min(int64(len(buffer)), left)])
			if err != nil {
				return fmt.Errorf("step %d, %d bytes before its end: %w", i+1, left, err)
			}
			left -= int64(n)
			if c.counted.Load() {
				c.down.Add(int64(n))
			}
		}
	}
	if c.counted.Load() {
		c.mu.Lock()
		c.report.Sessions++
		c.report.Exchanges += int64(len(c.spec.Steps))
		c.latency.add(time.Since(began))
		c.mu.Unlock()
	}
	return nil
}
