package kafkatest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// TestTwoForwarders: it does not matter which of them a connection comes to, and
// one is enough.
func TestTwoForwarders(t *testing.T) {
	t.Parallel()
	c := cluster(t, "newest", kfake.SeedTopics(partitions, shortTopic))
	d, both := forwarders(t, 2, c.ListenAddrs())
	f := start(t, d, classic(franz{}, shortTopic, -1))
	f.goesOn("at first")
	both[0].kill()
	f.goesOn("one is killed")
	both[0].start(t)
	f.goesOn("it is back")
	if err := changes[0].do(c, []string{shortTopic}); err != nil {
		t.Fatal(err)
	}
	f.goesOn(changes[0].what)
	if err := both[1].cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	f.goesOn("the other one drains")
	both[1].kill()
	both[1].start(t)
	f.goesOn("that is back too")
	f.end()
}

// TestNewForwarder: one that has never been there cannot ask a cluster that wants
// credentials. It does not need to where the file says where the nodes are.
func TestNewForwarder(t *testing.T) {
	t.Parallel()
	brokers := &named{certs: make([]string, 3)}
	cluster(t, "newest", append(secured(), kfake.ListenFn(brokers.listen))...)
	d, both := forwarders(t, 2, brokers.at, brokers.nodes())
	cl := franz{[]kgo.Opt{kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism())}}
	f := start(t, d, classic(cl, shortTopic, -1))
	f.goesOn("at first")
	both[0].kill()
	both[0].state = t.TempDir()
	both[0].start(t)
	f.goesOn("one is new")
	both[1].kill()
	f.goesOn("the new one is alone")
	f.end()
}

// TestReload: a file that is read again, with another route beside, cuts nobody off.
func TestReload(t *testing.T) {
	t.Parallel()
	c := cluster(t, "newest", kfake.SeedTopics(partitions, shortTopic))
	d, all := forwarders(t, 1, c.ListenAddrs())
	f := start(t, d, classic(franz{}, shortTopic, -1))
	f.goesOn("at first")
	text := all[0].file() + fmt.Sprintf("  other: { listen: %q, to: %q }\n", all[0].host+":19099", c.ListenAddrs()[0])
	if err := os.WriteFile(filepath.Join(all[0].state, "midspan.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := all[0].cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	within(t, func() string {
		if !strings.Contains(all[0].said.String(), "route=other") {
			return "the file has not been read again"
		}
		return ""
	})
	f.goesOn("the file was read again")
	if strings.Contains(all[0].said.String(), `"event":"end"`) {
		t.Error("connections have ended")
	}
	f.end()
}

// TestNodePorts: a forwarder that nobody has talked to leads each node's port to
// that node, and so does one whose nodes have moved while it was away.
func TestNodePorts(t *testing.T) {
	t.Parallel()
	c := cluster(t, "newest")
	asked := whoIsAsked(c)
	d, all := forwarders(t, 1, c.ListenAddrs())
	for node := range int32(3) {
		leads(t, d, asked, node)
	}
	f := all[0]
	f.kill()
	if err := c.RemoveNode(1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.AddNode(1, 0); err != nil {
		t.Fatal(err)
	}
	f.start(t)
	for node := range int32(3) {
		leads(t, d, asked, node)
	}
}

// whoIsAsked tells which node has had ApiVersions from the client of that name.
func whoIsAsked(c *kfake.Cluster) (node func(software string) (int32, bool)) {
	var mu sync.Mutex
	asked := map[string]int32{}
	c.ControlKey(kmsg.ApiVersions.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		asked[r.(*kmsg.ApiVersionsRequest).ClientSoftwareName] = c.CurrentNode()
		return nil, nil, false
	})
	return func(software string) (int32, bool) {
		mu.Lock()
		defer mu.Unlock()
		node, ok := asked[software]
		return node, ok
	}
}

// leads waits until a connection to a node's port is answered, which must be by
// that node.
func leads(t *testing.T, d *dialler, asked func(string) (int32, bool), node int32) {
	t.Helper()
	try := 0
	within(t, func() string {
		try++
		name := fmt.Sprintf("node%d-%d-%d", node, try, time.Now().UnixNano())
		r := kmsg.NewPtrApiVersionsRequest()
		r.ClientSoftwareName, r.ClientSoftwareVersion = name, "1"
		_, err := ask(d, firstPort+int(node), request(r, 3, 1))
		got, ok := asked(name)
		if ok && got != node {
			t.Fatalf("the port of node %d leads to node %d", node, got)
		}
		if err != nil {
			return fmt.Sprintf("the port of node %d: %v", node, err)
		}
		return ""
	})
}

// ask sends a request to a port and gives the answer.
func ask(d *dialler, port int, request []byte) ([]byte, error) {
	conn, err := d.Dial("tcp", net.JoinHostPort(advertised, strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	return frame(bufio.NewReader(conn))
}

// TestNodeWithoutPort: a node that has no port is left out of answers, which is
// counted, and the others go on.
func TestNodeWithoutPort(t *testing.T) {
	t.Parallel()
	c := cluster(t, "newest", kfake.SeedTopics(partitions, shortTopic))
	d, all := forwarders(t, 1, c.ListenAddrs())
	f := start(t, d, classic(franz{}, shortTopic, -1))
	f.goesOn("at first")
	outside := int32(lastPort - firstPort + 1)
	if _, _, err := c.AddNode(outside, 0); err != nil {
		t.Fatal(err)
	}
	for p := range int32(partitions) { // kfake gives the new one some
		if err := c.MoveTopicPartition(shortTopic, p, p); err != nil {
			t.Fatal(err)
		}
	}
	for c.CoordinatorFor(shortTopic) == outside {
		c.RehashCoordinators()
	}
	sameNodes(t, franz{}, d, 0, 1, 2)
	f.goesOn("there is a node without a port")
	f.end()
	if n := all[0].metric(t, "midspan_kafka_dropped_total", `route="orders"`); n == 0 {
		t.Error("the node that was left out is not counted")
	}
	if said := all[0].said.String(); !strings.Contains(said, "no port") || !strings.Contains(said, strconv.Itoa(int(outside))) {
		t.Errorf("the node that was left out is not in the log")
	}
}

// TestForbiddenNode: a cluster that says that a node is at an address which nodes
// may not be learned at leads nobody there.
func TestForbiddenNode(t *testing.T) {
	t.Parallel()
	other := loopback()
	c := cluster(t, "newest", kfake.ListenFn(listenAt("127.0.0.1", "127.0.0.1", "127.0.0.1", other)))
	if _, _, err := c.AddNode(3, 0); err != nil {
		t.Fatal(err)
	}
	asked := whoIsAsked(c)
	var inside []string
	for _, addr := range c.ListenAddrs() {
		if !strings.HasPrefix(addr, other) {
			inside = append(inside, addr)
		}
	}
	d, all := forwarders(t, 1, inside)
	sameNodes(t, franz{}, d, 0, 1, 2, 3)
	leads(t, d, asked, 2)
	r := kmsg.NewPtrApiVersionsRequest()
	r.ClientSoftwareName, r.ClientSoftwareVersion = "lost", "1"
	if answer, err := ask(d, firstPort+3, request(r, 3, 1)); err == nil {
		t.Errorf("a node that must not be reached answered: % x", answer)
	}
	if _, ok := asked("lost"); ok {
		t.Error("the port of a node that must not be reached leads to one")
	}
	if said := all[0].said.String(); !strings.Contains(said, other) || !strings.Contains(said, "learn") {
		t.Error("the log does not say which node cannot be reached, and what to write")
	}
}

// TestRebootstrap: no connection comes to another node than its port is for. A
// client of KIP-1242 says which one it wants, and would be told to start over.
func TestRebootstrap(t *testing.T) {
	t.Parallel()
	id := "the only one"
	c := cluster(t, "newest", kfake.ClusterID(id), kfake.SeedTopics(partitions, shortTopic))
	d, _ := forwarders(t, 1, c.ListenAddrs())
	f := start(t, d, classic(franz{[]kgo.Opt{kgo.OnRebootstrapRequired(func() ([]string, error) {
		t.Error("a client was told to start over")
		return []string{bootstrap}, nil
	})}}, shortTopic, -1))
	f.goesOn("at first")
	f.end()
	r := kmsg.NewPtrApiVersionsRequest()
	r.ClientSoftwareName, r.ClientSoftwareVersion = "strayed", "1"
	r.ClusterID, r.NodeID = &id, 2
	answer, err := ask(d, firstPort+1, request(r, 5, 1))
	if err != nil {
		t.Fatal(err)
	}
	if code := int16(binary.BigEndian.Uint16(answer[4:])); code != kerr.RebootstrapRequired.Code {
		t.Errorf("a client that strays is told %d, so that this test shows nothing", code)
	}
}

// TestMovedNode: the connections to a node follow it to another address.
func TestMovedNode(t *testing.T) {
	t.Parallel()
	c := cluster(t, "newest", kfake.SeedTopics(partitions, shortTopic))
	asked := whoIsAsked(c)
	d, _ := forwarders(t, 1, c.ListenAddrs())
	f := start(t, d, classic(franz{}, shortTopic, -1))
	f.goesOn("at first")
	if err := c.RemoveNode(2); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.AddNode(2, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.MoveTopicPartition(shortTopic, 1, 2); err != nil {
		t.Fatal(err)
	}
	f.goesOn("node 2 is at another address")
	leads(t, d, asked, 2)
	f.end()
}

// TestKeptNames: clients are told the brokers' own names, as Kerberos needs it, and
// the forwarder's ports.
func TestKeptNames(t *testing.T) {
	t.Parallel()
	brokers := &named{certs: make([]string, 3)}
	c := cluster(t, "newest", kfake.ListenFn(brokers.listen), kfake.SeedTopics(partitions, shortTopic))
	keep := fmt.Sprintf("advertise: { host: keep, ports: %d-%d }", firstPort, lastPort)
	d, _ := forwarders(t, 1, brokers.at, keep, brokers.nodes())
	d.names = func(port int) string {
		if port == bootstrapPort {
			return advertised
		}
		return brokerName(port - firstPort)
	}
	flowsOn(t, franz{}, c, d)
	if d.dialled(firstPort+2) == 0 {
		t.Error("no client has dialled node 2")
	}
}
