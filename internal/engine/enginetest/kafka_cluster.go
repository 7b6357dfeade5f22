package enginetest

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"midspan/internal/plan"
)

// kafkaWay is where TLS is spoken on a route of mode kafka.
type kafkaWay struct {
	name        string
	front, back bool
	odd         bool // brokers do the reverse of back
}

var kafkaWays = []kafkaWay{
	{name: "plain"}, {name: "TLS with clients", front: true}, {name: "TLS with brokers", back: true}, {name: "TLS with both", front: true, back: true},
}

const (
	kafkaName  = "kafka.test" // what clients are told for every broker
	kafkaPorts = 8            // nodes 0 to 7 have one
)

// cluster is a fake cluster of Kafka's: brokers that answer by hand, and a route to
// them. What their answers say of where they are leads nowhere.
type cluster struct {
	*rig
	way     kafkaWay
	brokers []*broker
	at      netip.AddrPort // the bootstrap port; those of the nodes follow on it
	more    string         // settings of the route
	roots   *x509.CertPool // of the route's certificate
}

// broker is a fake broker. It answers what it is asked, in order, or does as script
// says.
type broker struct {
	*server
	c      *cluster
	id     int32
	said   []nodeAt // what it says of the nodes
	script func(*broker, *kafkaEnd)
}

// kafkaEnd is one end of a connection.
type kafkaEnd struct {
	conn interface { // the peer, or TLS over it
		net.Conn
		CloseWrite() error
	}
	in   *bufio.Reader
	peer *peer
}

// newCluster is n brokers, nodes 1 to n, that do as script says (nil: they answer),
// and certificates. There is no route yet, see route.
func newCluster(r *rig, way kafkaWay, n int, script func(*broker, *kafkaEnd)) *cluster {
	r.Helper()
	c := &cluster{rig: r, way: way, at: r.freePorts(1 + kafkaPorts)}
	dir := r.TempDir()
	if way.front {
		_, file, cert := r.certificate(dir, kafkaName)
		c.roots = x509.NewCertPool()
		c.roots.AddCert(cert)
		c.more += ", tls: " + strconv.Quote(file)
	}
	var all []byte
	for id := int32(1); id <= int32(n); id++ {
		b := &broker{c: c, id: id, said: nodesUpTo(n), script: script}
		if b.script == nil {
			b.script = (*broker).answerAll
		}
		own, file, _ := r.certificate(dir, nodeName(id), r.place.server[0].String())
		text, err := os.ReadFile(file)
		if err != nil {
			r.Fatal(err)
		}
		all = append(all, text...)
		b.server = r.serve(func(p *peer) { b.serve(p, own) })
		c.brokers = append(c.brokers, b)
	}
	if way.back {
		ca := filepath.Join(dir, "ca.pem")
		if err := os.WriteFile(ca, all, 0o600); err != nil {
			r.Fatal(err)
		}
		c.more += ", upstream_tls: { ca: " + strconv.Quote(ca) + " }"
	}
	return c
}

// nodeName is what the cluster calls a node's host.
func nodeName(id int32) string { return fmt.Sprintf("node%d.inside.test", id) }

// nodesUpTo are nodes 1 to n, as the cluster's answers have them.
func nodesUpTo(n int) (all []nodeAt) {
	for id := int32(1); id <= int32(n); id++ {
		all = append(all, nodeAt{id, nodeName(id), 9092})
	}
	return all
}

func (c *cluster) places() []nodeAt { return nodesUpTo(len(c.brokers)) }

// told are places as clients have to be told of them.
func (c *cluster) told(all []nodeAt) (told []nodeAt) {
	for _, p := range all {
		if p.id >= 0 && p.id < kafkaPorts {
			told = append(told, nodeAt{p.id, kafkaName, int32(c.nodePort(p.id).Port())})
		}
	}
	return told
}

// nodePort is where the engine listens for a node's clients.
func (c *cluster) nodePort(id int32) netip.AddrPort {
	return netip.AddrPortFrom(c.at.Addr(), c.at.Port()+1+uint16(id))
}

// plan is that of a route to the cluster. With nodes, the file says where those are.
func (c *cluster) plan(nodes bool, settings string) *plan.Plan {
	c.Helper()
	var to, at []string
	for _, b := range c.brokers {
		to = append(to, strconv.Quote(b.addr.String()))
		at = append(at, fmt.Sprintf("%d: %q", b.id, b.addr))
	}
	if nodes {
		settings += ", nodes: { " + strings.Join(at, ", ") + " }"
	}
	return c.rig.plan("route: { mode: kafka, listen: %q, to: [%s], balance: first, advertise: { host: %s, ports: %d-%d } %s %s }",
		c.at, strings.Join(to, ", "), kafkaName, c.at.Port()+1, c.at.Port()+kafkaPorts, c.more, settings)
}

// route applies plan.
func (c *cluster) route(nodes bool, settings string) *cluster {
	c.Helper()
	c.applyPlan(c.plan(nodes, settings))
	return c
}

// client is a new connection.
func (c *cluster) client(at netip.AddrPort) *kafkaEnd {
	c.Helper()
	e, err := c.connectTo(at)
	if err != nil {
		c.Fatal(err)
	}
	return e
}

func (c *cluster) connectTo(at netip.AddrPort) (*kafkaEnd, error) {
	p, err := c.connect(at)
	if err != nil {
		return nil, err
	}
	if !c.way.front {
		return newKafkaEnd(p, nil), nil
	}
	conn := tls.Client(p.TCPConn, &tls.Config{RootCAs: c.roots, ServerName: kafkaName})
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	return newKafkaEnd(p, conn), nil
}

func newKafkaEnd(p *peer, conn *tls.Conn) *kafkaEnd {
	e := &kafkaEnd{conn: p, peer: p}
	if conn != nil {
		e.conn = conn
	}
	e.in = bufio.NewReaderSize(e.conn, 64<<10)
	return e
}

// serve is the broker's end of a connection.
func (b *broker) serve(p *peer, own tls.Certificate) {
	e := newKafkaEnd(p, nil)
	if b.c.way.back != b.c.way.odd {
		conn := tls.Server(p.TCPConn, &tls.Config{Certificates: []tls.Certificate{own}})
		if err := conn.Handshake(); err != nil {
			if errors.As(err, &tls.RecordHeaderError{}) { // brokers say so, Go does not
				_, _ = io.WriteString(p, "\x15\x03\x03\x00\x02\x02\x0a") // unexpected_message
			}
			return
		}
		e = newKafkaEnd(p, conn)
	}
	b.script(b, e)
}

// behind is a script that does nothing before gate is closed, and then answers.
func behind(gate <-chan struct{}) func(*broker, *kafkaEnd) {
	return func(b *broker, e *kafkaEnd) {
		select {
		case <-gate:
		case <-time.After(time.Until(b.c.deadline)):
		}
		b.answerAll(e)
	}
}

// answerAll answers up to the client's end, and then ends too.
func (b *broker) answerAll(e *kafkaEnd) {
	for {
		q, err := readRequest(e.in)
		if err != nil {
			_ = e.conn.CloseWrite() // of a connection that may have failed
			return
		}
		if a := b.answer(q); a != nil {
			if _, err := e.conn.Write(a); err != nil {
				return
			}
		}
		if q.key == apiHandshake && q.version == 0 && b.exchange(e) != nil {
			return
		}
	}
}

// answer is what the broker says to a request; nil: nothing.
func (b *broker) answer(q asked) []byte {
	m := message{}.i32(q.id)
	switch q.key {
	case apiProduce:
		if (&reading{b: q.body[2:]}).i16() == 0 { // behind the transactional id, which is null
			return nil
		}
		return m.i32(0).i32(0).framed()
	case apiFetch: // as many bytes as it is asked for
		return append(m, records(q.id, int((&reading{b: q.body}).i32()))...).framed()
	case apiMetadata:
		return append(m, metadata(q.version, b.said, b.id)...).framed()
	case apiCoordinator:
		p := b.said[len(b.said)-1]
		return m.i16(0).i32(p.id).str(p.host).i32(p.port).framed()
	case apiHandshake:
		return m.i16(0).i32(1).str("SCRAM-SHA-256").framed()
	case apiVersions:
		return m.i16(0).i32(3).i16(apiFetch).i16(4).i16(99).i16(apiMetadata).i16(0).i16(9).i16(150).i16(0).i16(1).framed()
	}
	return m.framed()
}

// tokens is how many SASL tokens follow on a handshake of version 0, each way.
const tokens = 2

// exchange answers tokens, which have a length and nothing else of Kafka's.
func (b *broker) exchange(e *kafkaEnd) error {
	for range tokens {
		token, err := readFrame(e.in)
		if err == nil {
			_, err = e.conn.Write(append(message("for "), token...).framed())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// records are n bytes that nobody must touch.
func records(id int32, n int) []byte {
	return bytes.Repeat(message{}.i32(id), n/4+1)[:n]
}

// fetchRequest asks for n bytes of records. To the forwarder it is one of version 4,
// whose answers have no addresses in them.
func fetchRequest(id int32, n int) []byte { return request(apiFetch, 4, id, message{}.i32(int32(n))) }

// ask sends a request and reads its answer, without the correlation id.
func (e *kafkaEnd) ask(id int32, q []byte) ([]byte, error) {
	if _, err := e.conn.Write(q); err != nil {
		return nil, err
	}
	return e.answer(id)
}

// answer reads the answer to the request with that id.
func (e *kafkaEnd) answer(id int32) ([]byte, error) {
	b, err := readFrame(e.in)
	if err != nil {
		return nil, err
	}
	in := &reading{b: b}
	if got := in.i32(); got != id || in.err != nil {
		return nil, fmt.Errorf("the answer is to request %d, want %d", got, id)
	}
	return in.b, nil
}

// nodes asks for the cluster's, in that version of Metadata.
func (e *kafkaEnd) nodes(version int16) (all []nodeAt, controller int32, err error) {
	b, err := e.ask(7, metadataRequest(version, 7))
	if err != nil {
		return nil, 0, err
	}
	return nodesIn(version, b)
}

// bye ends the connection in an orderly way, and wants the other end's.
func (e *kafkaEnd) bye() error {
	defer e.peer.Close()
	if err := e.conn.CloseWrite(); err != nil {
		return err
	}
	return e.wantEnd("end")
}

// wantEnd reads to the end, before which nothing may come.
func (e *kafkaEnd) wantEnd(want string) error {
	n, err := io.Copy(io.Discard, e.in)
	if err == nil {
		err = io.EOF
	}
	if got := fate(err); n > 0 || got != want {
		return fmt.Errorf("there came %d bytes and then: %s; want none and: %s", n, got, want)
	}
	return nil
}

// certificate is one that signs itself, with its file, for names and addresses.
func (r *rig) certificate(dir string, names ...string) (tls.Certificate, string, *x509.Certificate) {
	r.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		r.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.Fatal(err)
	}
	file := filepath.Join(dir, names[0]+".pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		r.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		r.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file, cert
}
