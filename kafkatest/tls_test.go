package kafkatest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate, PEM
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "kafkatest"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	var der []byte
	der, a.key = a.sign(template, template, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write(a.file, "CERTIFICATE", der)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// issue makes a certificate for names and 127.0.0.1, where all brokers are.
func (a *authority) issue(names ...string) tls.Certificate {
	der, key := a.sign(&x509.Certificate{
		DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) write(file, kind string, der []byte) {
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// terminate is the route's part for TLS with clients.
func (a *authority) terminate() string {
	dir, cert := a.t.TempDir(), a.issue(advertised)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(filepath.Join(dir, "cert.pem"), "CERTIFICATE", cert.Certificate[0])
	a.write(filepath.Join(dir, "key.pem"), "PRIVATE KEY", key)
	return fmt.Sprintf("tls: { cert: %s/cert.pem, key: %s/key.pem }", dir, dir)
}

// originate is the route's part for TLS with brokers.
func (a *authority) originate() string { return "upstream_tls: { ca: " + a.file + " }" }

// trust is for clients.
func (a *authority) trust() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool}
}

// named are brokers that advertise a name each, which resolves nowhere.
type named struct {
	ca    *authority
	certs []string // the name in the certificate of each; "": no TLS
	mu    sync.Mutex
	at    []string // where each really is
}

func brokerName(node int) string { return fmt.Sprintf("kafka%d.corp.invalid", node) }

func (n *named) listen(network, address string) (net.Listener, error) {
	l, err := listenAt("127.0.0.1")(network, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	node := len(n.at)
	n.at = append(n.at, l.Addr().String())
	if name := n.certs[node]; name != "" {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{n.ca.issue(name)}})
	}
	_, port, err := net.SplitHostPort(n.at[node])
	return elsewhere{l, told(net.JoinHostPort(brokerName(node), port))}, err
}

// nodes is the route's part that says where the brokers are.
func (n *named) nodes() string {
	var all []string
	for node, at := range n.at {
		all = append(all, fmt.Sprintf("%d: %q", node, at))
	}
	return "nodes: { " + strings.Join(all, ", ") + " }"
}

// elsewhere is a listener that says it is at another address.
type elsewhere struct {
	net.Listener
	says told
}

func (e elsewhere) Addr() net.Addr { return e.says }

type told string

func (told) Network() string  { return "tcp" }
func (a told) String() string { return string(a) }

// TestTLS: the forwarder speaks it with clients, with brokers, or with both.
func TestTLS(t *testing.T) {
	for name, legs := range map[string]struct{ clients, brokers bool }{
		"clients": {true, false},
		"brokers": {false, true},
		"both":    {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := newAuthority(t)
			brokers := &named{ca: ca, certs: make([]string, 3)}
			var route []string
			if legs.brokers {
				brokers.certs = []string{brokerName(0), brokerName(1), brokerName(2)}
				route = append(route, ca.originate())
			}
			if legs.clients {
				route = append(route, ca.terminate())
			}
			c := cluster(t, "newest", append(secured(), kfake.ListenFn(brokers.listen))...)
			d, _ := forwarders(t, 1, brokers.at, append(route, brokers.nodes())...)
			if legs.clients {
				d.tls = ca.trust()
			}
			auth := scram.Auth{User: user, Pass: password}
			flowsOn(t, franz{[]kgo.Opt{kgo.SASL(auth.AsSha512Mechanism())}}, c, d)
		})
	}
}

// TestBrokerName: a broker's certificate must have the name that the cluster
// advertises for it, also where the file has its address.
func TestBrokerName(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	brokers := &named{ca: ca, certs: []string{brokerName(0), brokerName(1), "impostor.corp.invalid"}}
	c := cluster(t, "newest", kfake.ListenFn(brokers.listen))
	asked := whoIsAsked(c)
	d, all := forwarders(t, 1, brokers.at[:2], ca.originate(), brokers.nodes())
	sameNodes(t, franz{}, d, 0, 1, 2)
	leads(t, d, asked, 1)
	within(t, func() string {
		r := kmsg.NewPtrApiVersionsRequest()
		r.ClientSoftwareName, r.ClientSoftwareVersion = "deceived", "1"
		if _, err := ask(d, firstPort+2, request(r, 3, 1)); err == nil {
			return "a broker passes for node 2 that cannot prove to be " + brokerName(2)
		}
		return ""
	})
	within(t, func() string {
		if said := all[0].said.String(); !strings.Contains(said, "not "+brokerName(2)) {
			return "the log does not say which name the certificate lacks"
		}
		return ""
	})
}
