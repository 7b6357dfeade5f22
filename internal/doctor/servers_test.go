package doctor

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"midspan/internal/brokers"
	"midspan/internal/brokers/brokertest"
)

// without3 is the cluster when node 3 is down: the others do not tell of it.
func without3(t *testing.T) *world {
	w := cluster(t)
	delete(w.at, "10.20.0.3:9092")
	for id := range int32(2) {
		w.serve(t, fmt.Sprintf("10.20.0.%d:9092", id+1), (&brokertest.Broker{ID: id + 1, Cluster: "c", Nodes: three[1:]}).Serve)
	}
	return w
}

// TestUntold: what a cluster does not tell of, since it is down, the file has.
func TestUntold(t *testing.T) {
	const nodes = "1 at k1.corp:9092 works=true is=true orders:19101 learned\n2 at k2.corp:9092 works=true is=true orders:19102 learned\n"
	other := func(w *world) {
		w.serve(t, "10.20.0.3:9092", (&brokertest.Broker{ID: 3, Cluster: "other"}).Serve)
	}
	for _, c := range []struct {
		name, file string
		harm       func(*world)
		want       string
	}{
		{
			"a server", wideRoute, func(*world) {},
			nodes + "orders k3.corp:9092 works=false\n" +
				"k3.corp:9092 connect: no connection to 10.20.0.3:9092: connection refused | nothing listens there: start the broker, or correct its port in `to` of route orders\n",
		},
		{
			"a server's name", wideRoute, func(w *world) { delete(w.names, "k3.corp") },
			nodes + "orders k3.corp:9092 works=false\n" +
				"k3.corp:9092 name: the name k3.corp has no address here: no such host | " + adviceName + "; or correct `to` of route orders\n",
		},
		{
			"a server of another cluster", wideRoute, other,
			nodes + "orders k3.corp:9092 works=false\n" +
				"k3.corp:9092 cluster: at 10.20.0.3:9092 is a broker of another cluster: other instead of c | let the name, or the forwarder on the way, lead to the broker of this cluster; or correct `to` of route orders\n",
		},
		{
			"a server that is no broker of its own", strings.Replace(wideRoute, "k3.corp", "all.corp", 1), func(w *world) { w.names["all.corp"] = "10.20.0.1" },
			nodes + "orders all.corp:9092 works=true\n",
		},
		{"a server that gets no clients", strings.Replace(wideRoute, `"k3.corp:9092"`, `{server: "k3.corp:9092", weight: 0}`, 1), func(*world) {}, nodes},
		{
			"a node, which is a server too", wideRoute + "    nodes: {3: \"k3.corp:9092\"}\n", func(*world) {},
			nodes + "3 at k3.corp:9092 works=false is=false orders:19103 file\n" +
				"3 connect: no connection to 10.20.0.3:9092: connection refused | nothing listens there: start the broker, or correct its port in `nodes` of route orders\n",
		},
		{
			"a server of another cluster's route", "routes:\n  other: {mode: kafka, listen: 29092, to: \"k3.corp:9092\", advertise: {host: h, ports: 29100-29110}}" +
				strings.TrimPrefix(strings.Replace(wideRoute, `, "k3.corp:9092"`, "", 1), "\nroutes:"),
			func(*world) {}, nodes,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := without3(t)
			c.harm(w)
			r := ask(t, w, Question{Plan: planOf(t, c.file)})
			if got := shown(r); got != c.want || r.OK == strings.Contains(c.want, " | ") {
				t.Errorf("ok %t\n%s\nwant\n%s", r.OK, got, c.want)
			}
		})
	}
}

// TestFrozen: where what is asked accepts and says nothing, there is time for another
// that tells of the nodes, and for the nodes.
func TestFrozen(t *testing.T) {
	for _, c := range []struct{ name, host, file, by string }{
		{"another address", "k.corp", "", "k.corp:9092"},
		{"another server", "k9.corp", strings.Replace(wideRoute, `["k1`, `["k9.corp:9092", "k1`, 1), "k1.corp:9092"},
		{"the only route", "typo.corp", wideRoute, "k1.corp:9092"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := cluster(t)
			w.names["k.corp"], w.names["k9.corp"], w.names["typo.corp"] = "10.20.0.9 10.20.0.1", "10.20.0.9", "slow"
			w.serve(t, "10.20.0.9:9092", func(net.Listener) {}) // the kernel accepts
			q := Question{Host: c.host, Port: 9092}
			if c.file != "" {
				q.Plan = planOf(t, c.file)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
			defer cancel()
			e := examiner{World: w.World(), q: q, connectTimeout: time.Minute, answerTimeout: time.Minute}
			r := e.report(ctx)
			if r.Cluster == nil || r.Cluster.By != c.by || len(r.Nodes) != 3 || len(r.Servers) != 0 || len(r.Problems) != 1 || r.Problems[0].Node != nil || ctx.Err() != nil {
				t.Errorf("%v: %+v\n%s", ctx.Err(), r.Cluster, shown(r))
			}
		})
	}
}

// TestAskedEarly: what servers did that were asked in place of the first is not lost, and
// one of them that is silent too leaves time for the nodes.
func TestAskedEarly(t *testing.T) {
	t.Parallel()
	w := cluster(t)
	for i, name := range []string{"k7.corp", "k8.corp", "k9.corp"} {
		w.names[name] = fmt.Sprintf("10.20.0.%d", 7+i)
	}
	w.serve(t, "10.20.0.7:9092", (&brokertest.Broker{ID: 7, Cluster: "other"}).Serve)
	w.serve(t, "10.20.0.8:9092", func(net.Listener) {}) // the kernel accepts
	w.serve(t, "10.20.0.9:9092", func(net.Listener) {})
	q := Question{Host: "k9.corp", Port: 9092, Plan: planOf(t, strings.Replace(wideRoute, `["k1.corp:9092", "k2.corp:9092"`, `["k9.corp:9092", "k8.corp:9092", "k1.corp:9092", "k7.corp:9092"`, 1)+"    kafka: {learn: \"*.corp\"}\n")}
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
	defer cancel()
	e := examiner{World: w.World(), q: q, connectTimeout: time.Minute, answerTimeout: time.Minute}
	r := e.report(ctx)
	got := shown(r)
	for _, s := range []string{"\n- kafka: 10.20.0.9:9092: ", "\nk8.corp:9092 kafka: 10.20.0.8:9092: ", "\nk7.corp:9092 cluster: at 10.20.0.7:9092 is a broker of another cluster: other instead of c"} {
		if !strings.Contains(got, s) || len(r.Problems) != 3 || ctx.Err() != nil {
			t.Errorf("%v: no %q in\n%s", ctx.Err(), s, got)
		}
	}
}

// TestNobody: of a file whose servers are all gone, each is named.
func TestNobody(t *testing.T) {
	w := cluster(t)
	clear(w.at)
	r := ask(t, w, Question{Plan: planOf(t, wideRoute)})
	got := shown(r)
	for _, s := range []string{"\n- connect: no connection to 10.20.0.1:", "\nk2.corp:9092 connect: no connection to 10.20.0.2:", "\nk3.corp:9092 connect: no connection to 10.20.0.3:"} {
		if !strings.Contains(got, s) || r.OK || len(r.Problems) != 3 {
			t.Errorf("no %q in\n%s", s, got)
		}
	}
}

// TestThroughTLS: who asks midspan speaks as its clients do, and its servers are
// looked at as it speaks with them.
func TestThroughTLS(t *testing.T) {
	server, roots := certificate(t, "k1.corp")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificates[0].Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	w.names["kafka.example.com"], w.names["k1.corp"] = "10.20.0.7", "10.20.0.1"
	b := &brokertest.Broker{ID: 1, Cluster: "c", Nodes: []brokers.Node{{ID: 1, Host: "kafka.example.com", Port: 19101}}}
	w.serve(t, "10.20.0.1:9094", func(ln net.Listener) { b.Serve(tls.NewListener(ln, server)) })
	w.serve(t, "10.20.0.7:19092", b.Serve)
	w.serve(t, "10.20.0.7:19101", b.Serve)
	q := Question{Host: "kafka.example.com", Port: 19092}
	text := "routes: {a: {mode: kafka, listen: 19092, to: \"k1.corp:9094\", upstream_tls: {ca: %q}, advertise: {host: kafka.example.com, ports: 19100-19110}}}"
	q.Plan = planOf(t, fmt.Sprintf(text, ca))
	if r := ask(t, w, q); !r.OK || len(r.Servers) != 1 || r.Servers[0].At.String() != "k1.corp:9094" {
		t.Error(shown(r))
	}
	if err := os.Remove(ca); err != nil {
		t.Fatal(err)
	}
	if r := ask(t, w, q); r.OK || !strings.Contains(shown(r), "k1.corp:9094 tls: k1.corp:9094 was not looked at: upstream_tls of route a: "+ca) {
		t.Error(shown(r))
	}

	// A server that is asked itself, at the port that midspan has too: its speech is known.
	w.names["k2.corp"] = "10.20.0.1"
	q = Question{Host: "k1.corp", Port: 9094, TLS: &tls.Config{RootCAs: roots, ServerName: "k1.corp"}}
	text = strings.Replace(strings.Replace(text, "listen: 19092", "listen: 9094", 1), `"k1.corp:9094"`, `["k1.corp:9094", "k2.corp:9094"]`, 1)
	q.Plan = planOf(t, strings.Replace(fmt.Sprintf(text, ca), "host: kafka.example.com", "host: other.example.com", 1))
	r := ask(t, w, q)
	if i := slices.IndexFunc(r.Servers, func(s Server) bool { return s.At.String() == "k2.corp:9094" }); i < 0 || !r.Servers[i].At.Works() {
		t.Error(shown(r))
	}
}
