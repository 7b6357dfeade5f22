package doctor

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/internal/brokers"
	"midspan/internal/brokers/brokertest"
	"midspan/internal/config"
	"midspan/internal/plan"
)

// world is a network of names and brokers. A dial to an address that is not in it
// is refused; to one that is nil it hangs.
type world struct {
	names map[string]string // to addresses, with blanks between them
	at    map[string]net.Listener
}

func newWorld() *world { return &world{map[string]string{}, map[string]net.Listener{}} }

func (w *world) World() World {
	return World{
		Lookup: func(ctx context.Context, host string) (all []netip.Addr, err error) {
			text, ok := w.names[host]
			if !ok {
				return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
			}
			if text == "slow" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			for _, s := range strings.Fields(text) {
				all = append(all, netip.MustParseAddr(s))
			}
			return all, nil
		},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ln, ok := w.at[addr]
			if !ok {
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			if ln == nil {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return (&net.Dialer{}).DialContext(ctx, network, ln.Addr().String())
		},
	}
}

// serve puts a server at an address.
func (w *world) serve(t *testing.T, addr string, serve func(net.Listener)) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	w.at[addr] = ln
	go serve(ln)
}

var three = []brokers.Node{{ID: 3, Host: "k3.corp", Port: 9092}, {ID: 1, Host: "k1.corp", Port: 9092}, {ID: 2, Host: "k2.corp", Port: 9092}}

// cluster is three brokers at 10.20.0.1 to 3.
func cluster(t *testing.T) *world {
	w := newWorld()
	for id := range int32(3) {
		w.names[fmt.Sprintf("k%d.corp", id+1)] = fmt.Sprintf("10.20.0.%d", id+1)
		w.serve(t, fmt.Sprintf("10.20.0.%d:9092", id+1), (&brokertest.Broker{ID: id + 1, Cluster: "c", Nodes: three}).Serve)
	}
	return w
}

// shown is a report as one text.
func shown(r Report) string {
	var b strings.Builder
	for _, n := range r.Nodes {
		fmt.Fprintf(&b, "%d at %s works=%t", n.ID, n.At, n.At.Works())
		for _, t := range n.At.Tries {
			fmt.Fprintf(&b, " is=%t", t.Is)
		}
		if n.Cover != nil {
			fmt.Fprintf(&b, " %s:%d %s", n.Cover.Route, n.Cover.Port, n.Cover.How)
		}
		b.WriteString("\n")
	}
	for _, s := range r.Servers {
		fmt.Fprintf(&b, "%s %s works=%t\n", s.Route, s.At, s.At.Works())
	}
	for _, p := range r.Problems {
		node := "-"
		if p.Node != nil {
			node = fmt.Sprint(*p.Node)
		} else if p.Server != "" {
			node = p.Server
		}
		fmt.Fprintf(&b, "%s %s: %s | %s\n", node, p.Hop, p.Text, p.Do)
	}
	return b.String()
}

func ask(t *testing.T, w *world, q Question) Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if q.Host == "" {
		q.Host, q.Port = "k1.corp", 9092
	}
	e := examiner{World: w.World(), q: q, connectTimeout: 2 * time.Second, answerTimeout: 10 * time.Second}
	return e.report(ctx)
}

func TestWell(t *testing.T) {
	r := ask(t, cluster(t), Question{})
	want := "1 at k1.corp:9092 works=true is=true\n2 at k2.corp:9092 works=true is=true\n3 at k3.corp:9092 works=true is=true\n"
	if got := shown(r); got != want || !r.OK || r.Cluster.ID != "c" || r.Cluster.WantsSASL || len(r.Cluster.APIs) == 0 {
		t.Errorf("%+v\n%s", r.Cluster, got)
	}
}

// TestHops breaks each hop; the report names it, and what to do.
func TestHops(t *testing.T) {
	say := func(text string) func(net.Listener) {
		return func(ln net.Listener) {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 1024)) // the question
				fmt.Fprint(c, text)
				c.Close()
			}
		}
	}
	const node2 = "10.20.0.2:9092"
	for _, c := range []struct {
		name string
		harm func(w *world)
		want []string
	}{
		{"name", func(w *world) { delete(w.names, "k2.corp") }, []string{"2 name: the name k2.corp has no address here: no such host", "let this machine's DNS know"}},
		{"refused", func(w *world) { delete(w.at, node2) }, []string{"2 connect: no connection to 10.20.0.2:9092: connection refused", "nothing listens there"}},
		{"dropped", func(w *world) { w.at[node2] = nil }, []string{"2 connect: no connection to 10.20.0.2:9092: no answer", "a firewall"}},
		{"not Kafka", func(w *world) { w.serve(t, node2, say("HTTP/1.1 400 Bad Request\r\n\r\n")) }, []string{"2 kafka: 10.20.0.2:9092: ApiVersions:", "another program"}},
		{"TLS", func(w *world) { w.serve(t, node2, say("\x15\x03\x03\x00\x02\x02\x28")) }, []string{"2 kafka: 10.20.0.2:9092: ApiVersions:", "kafkas://"}},
		{"closed", func(w *world) { w.serve(t, node2, say("")) }, []string{"2 kafka: 10.20.0.2:9092: ApiVersions: the connection was closed without an answer", "whether node 2 is known and up"}},
		{"another node", func(w *world) { w.at[node2] = w.at["10.20.0.3:9092"] }, []string{"2 node: the broker at 10.20.0.2:9092 says that it is not node 2"}},
		{
			"another cluster",
			func(w *world) {
				w.serve(t, node2, (&brokertest.Broker{ID: 2, Cluster: "other", Nodes: three}).Serve)
			},
			[]string{"2 cluster: at 10.20.0.2:9092 is a broker of another cluster: other instead of c"},
		},
		{"one address of two", func(w *world) { w.names["k2.corp"] = "10.20.0.2 10.20.0.9" }, []string{"2 at k2.corp:9092 works=true", "2 connect: no connection to 10.20.0.9:9092"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := cluster(t)
			c.harm(w)
			r := ask(t, w, Question{})
			got := shown(r)
			for _, s := range c.want {
				if !strings.Contains(got, s) {
					t.Errorf("no %q in\n%s", s, got)
				}
			}
			if r.OK || len(r.Problems) != 1 {
				t.Errorf("ok %t, %d problems", r.OK, len(r.Problems))
			}
		})
	}
}

// TestDialAdvice: a node's port may be advertised wrongly, the first broker's not; and
// what resets has been reached.
func TestDialAdvice(t *testing.T) {
	at := netip.MustParseAddrPort("10.20.0.2:9092")
	for _, c := range []struct {
		err  error
		who  *expected
		want string
	}{
		{syscall.ECONNREFUSED, nil, "look at host and port"},
		{syscall.ECONNREFUSED, &expected{node: 2}, "correct the port that it advertises"},
		{syscall.ECONNRESET, nil, "see `midspan status` on its VM"},
	} {
		if got := dialAdvice(c.err, at, c.who); !strings.Contains(got, c.want) {
			t.Errorf("%v: %q has no %q", c.err, got, c.want)
		}
	}
}

// TestBootstrap: without a first broker there is nothing else to look at.
func TestBootstrap(t *testing.T) {
	w := newWorld()
	w.names["k1.corp"] = "slow"
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	began := time.Now()
	r := Ask(ctx, w.World(), Question{Host: "k1.corp", Port: 9092})
	if got := shown(r); r.OK || r.Cluster != nil || !strings.HasPrefix(got, "- name: the name k1.corp has no address here: no answer") || time.Since(began) > 20*time.Second {
		t.Errorf("after %s: %s", time.Since(began), got)
	}
}

// TestSilent: an address that accepts and says nothing takes none of the time that is
// for the nodes.
func TestSilent(t *testing.T) {
	w := cluster(t)
	w.names["k.corp"] = "10.20.0.1 10.20.0.9"
	w.serve(t, "10.20.0.9:9092", func(net.Listener) {}) // the kernel accepts
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e := examiner{World: w.World(), q: Question{Host: "k.corp", Port: 9092}, connectTimeout: 2 * time.Second, answerTimeout: time.Second}
	r := e.report(ctx)
	if got := shown(r); len(r.Problems) != 1 || !strings.Contains(got, "- kafka: 10.20.0.9:9092: ApiVersions: the broker did not answer in time") || ctx.Err() != nil {
		t.Errorf("%v: %s", ctx.Err(), got)
	}
}

// TestTimeIsOver: of a place that there was no time for nothing is said but that.
func TestTimeIsOver(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e := examiner{World: cluster(t).World(), connectTimeout: time.Second, answerTimeout: time.Second}
	p := e.look(ctx, visit{at: Place{Host: "k1.corp", Port: 9092}})
	if len(p.Tries) != 1 || p.Tries[0].Hop != HopTime || p.Tries[0].advice != "give it more with --timeout" {
		t.Errorf("%+v", p)
	}
}

func planOf(t *testing.T, text string) *plan.Plan {
	t.Helper()
	f, err := config.Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := plan.New(f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const kafkaRoute = `
routes:
  orders:
    mode: kafka
    listen: 19092
    to: "k1.corp:9092"
    advertise: {host: kafka.example.com, ports: 19101-19102, first_node: 1}
`

// TestCover: which route carries which node, and where it leads.
func TestCover(t *testing.T) {
	ports := "routes: {a: {listen: 9092, to: \"10.20.0.1:9092\"}, b: {listen: 9093, to: \"10.20.0.2:9092\"}}"
	told := []brokers.Node{{ID: 1, Host: "kafka.example.com", Port: 19101}, {ID: 2, Host: "kafka.example.com", Port: 19102}}
	for _, c := range []struct {
		name, file string
		nodes      []brokers.Node
		tls        bool
		want       string // the covers
		port       uint16 // that is asked; 0: 9092
	}{
		{
			"mode kafka: hosts in `to` may be learned, others not; a node without a port", kafkaRoute, three, false,
			`1 at k1.corp:9092 orders:19101 learned
2 at k2.corp:9092 orders:19102  route orders may not learn node 2 at k2.corp:9092, so connections to it are reset | add it to kafka.learn: ["k2.corp:9092"], or write nodes: { 2: "k2.corp:9092" }
3 at k3.corp:9092 orders:0  route orders has no port for node 3, so clients are not told of it | widen ` + "`ports`" + ` (19101-19102, from node 1), or write node_ports: { 3: PORT }`, 0,
		},
		{
			"mode kafka: written, and learned", kafkaRoute + "    nodes: {2: \"10.20.0.2:9092\"}\n    kafka: {learn: \"*.corp:9092\"}\n", three[1:], false,
			"1 at k1.corp:9092 orders:19101 learned\n2 at 10.20.0.2:9092 orders:19102 file", 0,
		},
		{
			"mode kafka: pattern", kafkaRoute + "    nodes: \"10.20.0.{node}:9092\"\n", three[1:], false,
			"1 at 10.20.0.1:9092 orders:19101 pattern\n2 at 10.20.0.2:9092 orders:19102 pattern", 0,
		},
		{
			"mode kafka: what clients are told", kafkaRoute, told, false,
			"1 at kafka.example.com:19101 orders:19101 midspan\n2 at kafka.example.com:19102 orders:19102 midspan", 0,
		},
		{
			"mode kafka: what clients are told, with the brokers' own hosts", strings.Replace(kafkaRoute, "kafka.example.com", "keep", 1),
			[]brokers.Node{{ID: 1, Host: "k1.corp", Port: 19101}, {ID: 2, Host: "k2.corp", Port: 19102}},
			false,
			"1 at k1.corp:19101 orders:19101 midspan\n2 at k2.corp:19102 orders:19102 midspan", 19092,
		},
		{
			"a port for each, advertised", ports,
			[]brokers.Node{{ID: 1, Host: "e.example.com", Port: 9092}, {ID: 2, Host: "e.example.com", Port: 9093}},
			false,
			"1 at 10.20.0.1:9092 a:9092 port\n2 at 10.20.0.2:9092 b:9093 port", 0,
		},
		{
			"the same port for all", ports, three[1:], false,
			`1 at k1.corp:9092 a:9092  nodes 1 and 2 both advertise port 9092, and route a leads from there to one of them only | use mode kafka; or mode sni, if the brokers speak TLS; or let each broker advertise a port of its own, on a listener of its own
2 at k2.corp:9092 a:9092  nodes 1 and 2 both advertise port 9092, and route a leads from there to one of them only | use mode kafka; or mode sni, if the brokers speak TLS; or let each broker advertise a port of its own, on a listener of its own`, 0,
		},
		{
			"a frontend for each", "routes: {a: {listen: 9092, to: \"k1.corp:9092\"}, b: {listen: 9093, to: \"K2.corp:9092\"}}", three[1:], false,
			"1 at k1.corp:9092 a:9092 frontend\n2 at k2.corp:9092 b:9093 frontend", 0,
		},
		{
			"no route", "routes: {a: {listen: 3306, to: \"h:3306\"}}", three[1:2], false,
			"1 at k1.corp:9092 :0  no route carries node 1, which clients are sent to at k1.corp:9092 | write a route of mode kafka for the cluster, or a route for this broker", 0,
		},
		{
			"by name", "routes: {a: {mode: sni, listen: 9094, to: {default: \"10.20.0.9:9094\", k1.corp: \"10.20.0.1:9094\", \"*.corp\": \"10.20.0.2:9094\"}}}", append([]brokers.Node{{ID: 7, Host: "other", Port: 9092}}, three[1:]...), true,
			"1 at 10.20.0.1:9094 a:9094 name\n2 at 10.20.0.2:9094 a:9094 name\n7 at 10.20.0.9:9094 a:9094 name", 0,
		},
		{
			"by name, without TLS", "routes: {a: {mode: sni, listen: 9094, to: {k1.corp: \"10.20.0.1:9094\"}}}", three[1:2], false,
			"1 at k1.corp:9092 :0  no route carries node 1, which clients are sent to at k1.corp:9092 | write a route of mode kafka for the cluster, or a route for this broker", 0,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := Question{Host: "k1.corp", Port: cmp.Or(c.port, 9092), Plan: planOf(t, c.file)}
			if c.tls {
				q.TLS = &tls.Config{ServerName: "x"}
			}
			e := examiner{q: q}
			var lines []string
			for _, n := range e.nodes(brokers.Cluster{Nodes: c.nodes}) {
				line := fmt.Sprintf("%d at %s %s:%d %s", n.ID, n.At, n.Cover.Route, n.Cover.Port, n.Cover.How)
				if n.Cover.Problem != "" {
					line += " " + n.Cover.Problem + " | " + n.Cover.do
				}
				lines = append(lines, line)
			}
			if got := strings.Join(lines, "\n"); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// TestRoute: a node that no route carries is a problem though it can be reached.
func TestRoute(t *testing.T) {
	r := ask(t, cluster(t), Question{Plan: planOf(t, kafkaRoute)})
	got := shown(r)
	if r.OK || len(r.Problems) != 2 || !strings.Contains(got, "2 route: route orders may not learn node 2") || !strings.Contains(got, "3 route: route orders has no port for node 3") {
		t.Error(got)
	}
}

// TestSASL: what is known without a password; the nodes are the file's.
func TestSASL(t *testing.T) {
	w := cluster(t)
	for id := range int32(2) {
		w.serve(t, fmt.Sprintf("10.20.0.%d:9092", id+1), (&brokertest.Broker{Mechanisms: []string{"SCRAM-SHA-512", "GSSAPI"}}).Serve)
	}
	r := ask(t, w, Question{Plan: planOf(t, kafkaRoute+"    nodes: {1: \"k1.corp:9092\", 2: \"10.20.0.9:9092\"}\n")})
	if !r.Cluster.WantsSASL || fmt.Sprint(r.Cluster.Mechanisms) != "[GSSAPI SCRAM-SHA-512]" {
		t.Errorf("%+v", r.Cluster)
	}
	if got := shown(r); !strings.HasPrefix(got, "1 at k1.corp:9092 works=true is=false orders:19101 file\n2 at 10.20.0.9:9092 works=false is=false orders:19102 file\n2 connect:") {
		t.Error(got)
	}
	if r := ask(t, w, Question{}); !r.OK || len(r.Nodes) != 0 {
		t.Error(shown(r))
	}
}

// TestTLS: the name that is verified is what clients are told, wherever the
// connection goes.
func TestTLS(t *testing.T) {
	server, roots := certificate(t, "k1.corp")
	w := newWorld()
	w.names["k1.corp"] = "10.20.0.1"
	b := &brokertest.Broker{ID: 1, Cluster: "c", Nodes: []brokers.Node{{ID: 1, Host: "k1.corp", Port: 9094}}}
	w.serve(t, "10.20.0.1:9094", func(ln net.Listener) { b.Serve(tls.NewListener(ln, server)) })

	q := Question{Host: "k1.corp", Port: 9094, TLS: &tls.Config{RootCAs: roots}}
	if r := ask(t, w, q); !r.OK || !r.Nodes[0].At.Tries[0].Is {
		t.Error(shown(r))
	}
	q.Plan = planOf(t, "routes: {a: {mode: kafka, listen: 1, to: \"k1.corp:9094\", advertise: {host: h, ports: 10-12}, nodes: {1: \"10.20.0.1:9094\"}}}")
	if r := ask(t, w, q); !r.OK || r.Nodes[0].At.Host != "10.20.0.1" {
		t.Error(shown(r))
	}
	q.TLS = &tls.Config{RootCAs: roots, ServerName: "other.corp"}
	if r := ask(t, w, q); r.OK || r.Problems[0].Hop != HopTLS || !strings.Contains(shown(r), "not other.corp") || !strings.Contains(shown(r), "--server-name") {
		t.Error(shown(r))
	}
	q.TLS = nil
	if r := ask(t, w, q); r.OK || r.Problems[0].Hop != HopKafka || !strings.Contains(shown(r), "kafkas://") {
		t.Error(shown(r))
	}
}

func certificate(t *testing.T, name string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
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
