package daemon

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"midspan/internal/brokers"
	"midspan/internal/engine"
	"midspan/internal/plan"
)

// planEngine carries nothing: it keeps the plans that it is given.
type planEngine struct {
	mu    sync.Mutex
	hooks engine.Hooks
	plans []*plan.Plan
	at    []time.Time // when each was given
}

func (e *planEngine) Apply(_ context.Context, p *plan.Plan) (engine.Change, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.plans, e.at = append(e.plans, p), append(e.at, time.Now())
	return engine.Change{}, nil
}

func (e *planEngine) Status() engine.Status {
	return engine.Status{Routes: []engine.RouteStatus{}}
}
func (e *planEngine) Conns() []engine.Conn { return nil }
func (e *planEngine) Kill(string) bool     { return false }
func (e *planEngine) Close() error         { return nil }

// nodes are where those of a plan's first route are, with their addresses.
func nodesOf(p *plan.Plan) string {
	var all []string
	for _, n := range p.Routes[0].Kafka.Nodes {
		s := p.Routes[0].Servers[n.Server]
		all = append(all, fmt.Sprintf("%d %s(%d)", n.ID, s.Host, len(s.Endpoints)))
	}
	return strings.Join(all, ", ")
}

// fakeCluster is a broker that knows where the nodes are.
type fakeCluster struct {
	port  int
	mu    sync.Mutex
	nodes []brokers.Node
	asked time.Time // first; what it has is not known before
}

func newFakeCluster(t *testing.T) *fakeCluster {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	f := &fakeCluster{port: ln.Addr().(*net.TCPAddr).Port}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f.serve(c)
			}()
		}
	}()
	return f
}

func (f *fakeCluster) set(nodes ...brokers.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes = nodes
}

// serve answers until the other end closes.
func (f *fakeCluster) serve(c io.ReadWriter) {
	for {
		head := make([]byte, 12) // size, key, version, correlation id
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head))-8); err != nil {
			return
		}
		body := f.answer(int16(binary.BigEndian.Uint16(head[4:])), int16(binary.BigEndian.Uint16(head[6:])))
		b := binary.BigEndian.AppendUint32(nil, uint32(len(body)+4))
		if _, err := c.Write(append(append(b, head[8:]...), body...)); err != nil {
			return
		}
	}
}

func (f *fakeCluster) answer(key, version int16) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if key == int16(kmsg.ApiVersions) {
		a := kmsg.NewPtrApiVersionsResponse()
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MaxVersion = int16(kmsg.Metadata), 12
		a.ApiKeys = append(a.ApiKeys, k)
		return a.AppendTo(nil)
	}
	if f.asked.IsZero() {
		f.asked = time.Now()
	}
	a := kmsg.NewPtrMetadataResponse()
	a.Version, a.ClusterID = version, kmsg.StringPtr("fake")
	for _, n := range f.nodes {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = n.ID, n.Host, int32(n.Port)
		a.Brokers = append(a.Brokers, b)
	}
	return a.AppendTo(nil)
}

// kafkaRig is a rig on a planEngine.
func kafkaRig(t *testing.T, routes string, known map[string]Cluster) (*rig, *planEngine, chan map[string]Cluster) {
	t.Helper()
	r := newRig(t, routes)
	e, kept := &planEngine{}, make(chan map[string]Cluster, 100)
	o := r.o
	o.Engine = func(h engine.Hooks) (engine.Engine, error) { e.hooks = h; return e, nil }
	o.Clusters, o.RememberClusters = known, func(c map[string]Cluster) { kept <- c }
	r.Daemon = New(o)
	return r, e, kept
}

const kafkaRoute = `routes: {orders: {mode: kafka, listen: PORT, to: "127.0.0.1:%d", advertise: {host: k.example, ports: %s},
  kafka: {learn: ["*.test", 127.0.0.0/8], discover: %s}, check: {kind: %s, every: 50ms, timeout: 10s, rise: 1, fall: 1}}}`

// TestNodes: what the cluster says of its nodes is in force with addresses, checked,
// kept, and comes back with a reload and with a restart.
func TestNodes(t *testing.T) {
	f := newFakeCluster(t)
	dead := uint16(freePort(t))
	f.set(brokers.Node{ID: 1, Host: "b1.test", Port: uint16(f.port)}, brokers.Node{ID: 2, Host: "127.0.0.1", Port: dead}, brokers.Node{ID: 30, Host: "b1.test", Port: 9}, brokers.Node{ID: 4, Host: "b4.elsewhere", Port: 9092})
	wide := fmt.Sprintf(kafkaRoute, f.port, "64000-64009", "1h", "kafka")
	r, e, kept := kafkaRig(t, wide, nil)
	r.zone.set("b1.test", "127.0.0.1")
	r.start()
	now := func() string { return nodesOf(r.Plan()) }
	r.until("knowing the nodes", func() bool { return now() == "1 b1.test(1), 2 127.0.0.1(1)" })
	f.mu.Lock()
	asked := f.asked
	f.mu.Unlock()
	e.mu.Lock()
	for i, p := range e.plans { // without an address only where the wait for one was over
		if s := nodesOf(p); s != "" && s != now() && e.at[i].Sub(asked) < nodeWait {
			t.Errorf("an engine was given %s", s)
		}
	}
	e.mu.Unlock()
	r.until("node 2 down", func() bool { err, known := r.NodeReady("orders", 2); return known && err != nil })
	for id, want := range map[int32]string{1: "<nil> true", 2: "the node is not up true", 3: "no such node is known false", 4: "the node may not be learned at b4.elsewhere:9092 true", 30: "the node has no port true"} {
		err, known := r.NodeReady("orders", id)
		if got := fmt.Sprint(err, known); got != want {
			t.Errorf("node %d: %s, want %s", id, got, want)
		}
	}
	if err, known := r.NodeReady("absent", 1); known || err.Error() != "no such route" {
		t.Errorf("no route: %v, %v", err, known)
	}
	if err, _ := r.RouteReady("orders"); err != nil {
		t.Errorf("the route: %v", err)
	}
	if s := r.Status().Clusters["orders"]; s.ID != "fake" || s.Problem != "" {
		t.Errorf("%+v", s)
	}
	if got := fmt.Sprint(r.Status().Unreached); got != "map[orders:[{4 64004 b4.elsewhere:9092} {30 0 b1.test:9}]]" {
		t.Errorf("unreached: %s", got)
	}
	for _, want := range []string{"nodes of the cluster are known", "1 at b1.test:", "node 30 has no port"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, r.log.String())
		}
	}
	// The nodes stay known where the file has no ports for them, or does not ask.
	f.set()
	r.write(fmt.Sprintf(kafkaRoute, f.port, "64000-64001", "off", "kafka"))
	r.reload(t)
	if now() != "1 b1.test(1)" {
		t.Errorf("with fewer ports: %s", now())
	}
	r.write(wide)
	r.reload(t)
	if now() != "1 b1.test(1), 2 127.0.0.1(1)" {
		t.Errorf("with all ports again: %s", now())
	}
	var last map[string]Cluster
	for len(kept) > 0 {
		last = <-kept
	}
	again, e2, _ := kafkaRig(t, fmt.Sprintf(kafkaRoute, f.port, "64000-64009", "off", "kafka"), last)
	again.zone.set("b1.test", "127.0.0.1")
	began := time.Now()
	again.start()
	e2.mu.Lock()
	defer e2.mu.Unlock()
	if s := nodesOf(e2.plans[0]); s != "1 b1.test(1), 2 127.0.0.1(1)" && e2.at[0].Sub(began) < startWait {
		t.Errorf("after a restart the first plan has %s", s)
	}
}

func (r *rig) reload(t *testing.T) {
	t.Helper()
	if err := r.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestNodesOfClients: what clients are answered is in force within moments, although
// the cluster is never asked; and what they want has it asked, where it may be.
func TestNodesOfClients(t *testing.T) {
	f := newFakeCluster(t)
	r, e, _ := kafkaRig(t, fmt.Sprintf(kafkaRoute, f.port, "64000-64009", "off", "kafka"), nil)
	r.zone.set("b1.test", "127.0.0.1")
	r.start()
	for id := range int32(10) {
		e.hooks.Node(engine.Node{Route: "orders", ID: id, Host: "b1.test", Port: uint16(10000 + id)})
	}
	r.until("knowing the nodes", func() bool { return strings.Count(nodesOf(r.Plan()), "(1)") == 10 })
	e.mu.Lock()
	known := map[string]bool{} // and not the plans, of which each check that fails may make one
	for _, p := range e.plans {
		known[nodesOf(p)] = true
	}
	e.mu.Unlock()
	if len(known) > 8 {
		t.Errorf("ten nodes made %d plans", len(known))
	}

	f.set(brokers.Node{ID: 9, Host: "127.0.0.9", Port: uint16(f.port)}, brokers.Node{ID: 7, Host: "127.0.0.1", Port: uint16(f.port)})
	r2, e2, _ := kafkaRig(t, fmt.Sprintf(kafkaRoute, f.port, "64000-64009", "1h", "kafka"), nil)
	f.set()
	r2.start()
	r2.until("being asked", func() bool { return r2.Status().Clusters["orders"].ID == "fake" })
	f.set(brokers.Node{ID: 7, Host: "127.0.0.1", Port: uint16(f.port)})
	e2.hooks.Node(engine.Node{Route: "orders", ID: 7})
	r2.until("knowing what is wanted", func() bool { return nodesOf(r2.Plan()) == "7 127.0.0.1(1)" })
}

// TestUsable: a route of mode kafka needs a bootstrap server; without checks, failed
// connects never take a node away.
func TestUsable(t *testing.T) {
	f := newFakeCluster(t)
	dead := freePort(t)
	r, e, _ := kafkaRig(t, fmt.Sprintf(kafkaRoute, dead, "64000-64009", "off", "kafka"), nil)
	r.start()
	e.hooks.Node(engine.Node{Route: "orders", ID: 1, Host: "127.0.0.1", Port: uint16(f.port)})
	r.until("down", func() bool { err, _ := r.RouteReady("orders"); return err != nil && r.Ready() != nil })
	r.until("with its node up", func() bool { err, known := r.NodeReady("orders", 1); return err == nil && known })

	// Failed connects count for as long as it is between two tests.
	without := strings.Replace(fmt.Sprintf(kafkaRoute, f.port, "64000-64009", "off", "off"), "every: 50ms", "every: 1h", 1)
	r, e, _ = kafkaRig(t, without, nil)
	r.start()
	node := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(dead))
	e.hooks.Node(engine.Node{Route: "orders", ID: 1, Host: "127.0.0.1", Port: node.Port()})
	r.until("knowing the node", func() bool { return nodesOf(r.Plan()) != "" })
	e.hooks.Dial(engine.Dial{Route: "orders", Server: node.String(), Addr: node, Err: io.EOF})
	r.until("seen to fail", func() bool { err, known := r.NodeReady("orders", 1); return err != nil && known })
	if end := r.Plan().Routes[0].Servers[1].Endpoints[0]; !end.Up || !end.LastResort {
		t.Errorf("the node's only address: %+v", end)
	}
}

// TestAskBroker: the cluster is asked as its clients' connections are made: with a
// PROXY header of our own, in TLS, for the broker's name.
func TestAskBroker(t *testing.T) {
	f := newFakeCluster(t)
	f.set(brokers.Node{ID: 1, Host: "b1.test", Port: 9092})
	own, ca := certificateFile(t, "b1.test")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	headers := make(chan string, 4)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(c)
			line, _ := in.ReadString('\n')
			headers <- line
			f.serve(tls.Server(buffered{c, in}, own))
			c.Close()
		}
	}()
	r := &plan.Route{Name: "orders", SendProxy: plan.SendV1, UpstreamTLS: plan.UpstreamTLS{On: true, CA: ca, Min: "1.2"}}
	b := bootstrap{addr: netip.MustParseAddrPort(ln.Addr().String()), host: "b1.test"}
	c, err := askBroker(t.Context(), r, b)
	if err != nil || len(c.Nodes) != 1 || c.Nodes[0].Host != "b1.test" {
		t.Errorf("%+v, %v", c, err)
	}
	if h := <-headers; h != "PROXY UNKNOWN\r\n" {
		t.Errorf("header %q", h)
	}
	b.host = "b2.test"
	if _, err = askBroker(t.Context(), r, b); brokers.KindOf(err) != brokers.BadTLS || !strings.HasPrefix(err.Error(), ln.Addr().String()+": TLS: ") {
		t.Errorf("with another name: %v", err)
	}
	r.UpstreamTLS.Name = "b1.test"
	if _, err = askBroker(t.Context(), r, b); err != nil {
		t.Errorf("with the name of the file: %v", err)
	}
	r.UpstreamTLS.CA = "/absent"
	if _, err = askBroker(t.Context(), r, b); err == nil || !strings.Contains(err.Error(), "/absent") {
		t.Errorf("without the CA: %v", err)
	}
}

// buffered is a connection of which something was read ahead.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// certificateFile is a server of that name, and a file with who vouches for it.
func certificateFile(t *testing.T, name string) (*tls.Config, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, file
}
