package kafka

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// Addresses of the clients' network: one client, and what it can reach.
const (
	clientAddr = "10.80.0.2"
	frontAddr  = "10.80.0.1"
)

// Versions of clients.
const (
	oldClients = "2.8.2" // before KIP-951, and the last with Java 8's peers
	librdkafka = "confluent-kafka==2.16.1"
)

// program is a client.
type program struct {
	name   string
	start  func(args []string) rig.Spec
	kip848 bool                         // it knows the newer protocol of groups
	share  func(args []string) rig.Spec // its job stream with a share group; nil: it has none
}

// programs are the clients. What they are made from is downloaded; call it before
// rig.Isolate.
func programs(t *testing.T) []program {
	t.Helper()
	jobs := func(version string) (classpath string) {
		return rig.JavaProgram(t, "clients/KafkaJobs.java", rig.Jars(t, "org.apache.kafka:kafka-clients:"+version))
	}
	java := func(classpath, class string) func([]string) rig.Spec {
		return func(args []string) rig.Spec {
			return rig.Spec{Program: rig.Java(t), Args: rig.JavaArgs(classpath, "256m", class, args...)}
		}
	}
	newest := jobs(rig.Kafka4)
	python := rig.Python(t, librdkafka)
	goProgram := func(name string) func([]string) rig.Spec {
		return func(args []string) rig.Spec { return rig.Helper(name, args...) }
	}
	return []program{
		{
			name: "java", start: java(newest, "KafkaJobs"), kip848: true,
			share: java(rig.JavaProgram(t, "clients/ShareJobs.java", newest), "ShareJobs"),
		},
		{name: "java-old", start: java(jobs(oldClients), "KafkaJobs")},
		{name: "librdkafka", kip848: true, start: func(args []string) rig.Spec {
			return rig.Spec{Program: python, Args: append([]string{"clients/kafka_jobs.py"}, args...)}
		}},
		{name: "franz-go", start: goProgram("franz-go"), kip848: true, share: goProgram("franz-go")},
		{name: "sarama", start: goProgram("sarama")},
	}
}

// lab is a cluster, and a client's machine that reaches the test's own namespace
// only, where the forwarder or a load balancer is.
type lab struct {
	t       *testing.T
	k       *rig.Kafka
	clients *rig.Net
	asked   *rig.DNS // what clients' hosts files do not have
}

func newLab(t *testing.T, spec rig.KafkaSpec) *lab {
	t.Helper()
	l := &lab{t: t, clients: rig.NewNet(t)}
	rig.Cable(t, rig.End{Name: "eth0", Addrs: []string{frontAddr + "/24"}}, rig.End{Net: l.clients, Name: "eth0", Addrs: []string{clientAddr + "/24"}})
	// It knows no name, and notes what it is asked.
	l.asked = rig.StartDNSIn(t, l.clients, "127.0.0.1:53", 1)
	rig.Overlay(t, "/etc/resolv.conf", "nameserver 127.0.0.1\n")
	l.k = rig.StartKafka(t, spec)
	return l
}

// wantNoLeak wants that no client was told a name that is not for clients.
func (l *lab) wantNoLeak() {
	l.t.Helper()
	if names := l.asked.Names(); len(names) > 0 {
		l.t.Errorf("clients looked up %q: somebody has told them", names)
	}
}

// front says what names clients have for the forwarder.
func front(names ...string) string {
	return "127.0.0.1 localhost\n" + frontAddr + " " + strings.Join(names, " ") + "\n"
}

// run is a client's run. Its hosts file is what it knows of the world.
type run struct {
	*rig.Proc
	t     testing.TB
	stdin *os.File // what ends the job stream
}

func (l *lab) start(t *testing.T, p program, hosts string, args ...string) *run {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	t.Cleanup(func() { w.Close() })
	s := p.start(args)
	s.In, s.Hosts, s.Stdin = l.clients, hosts, r
	return &run{rig.Start(t, s), t, w}
}

// jobLimit bounds a program's run; its jobs have bounds of their own.
const jobLimit = 10 * time.Minute

// wait waits for the end, which must be a good one, and returns what was said.
func (r *run) wait() string {
	r.t.Helper()
	if code := r.Exit(jobLimit); code != 0 {
		r.t.Fatalf("exit code %d after\n%s", code, r.Stdout())
	}
	return r.Stdout()
}

// nodeLine is what the job describe says of a node.
var nodeLine = regexp.MustCompile(`(?m)^node (\d+) (.*)$`)

// wantNodes wants the client told of exactly these nodes, by these addresses.
func wantNodes(t *testing.T, said string, addr func(node int) string, nodes ...int) {
	t.Helper()
	var want []string
	for _, n := range nodes {
		want = append(want, fmt.Sprintf("node %d %s", n, addr(n)))
	}
	got := nodeLine.FindAllString(said, -1)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the admin describes the cluster as %q, want %q", got, want)
	}
}

// topics makes those that a client's jobs use.
func (l *lab) topics(t *testing.T, name string, suffixes ...string) {
	t.Helper()
	for _, s := range suffixes {
		l.k.CreateTopic(name+s, partitions)
	}
}

// all runs all jobs of a client, with n records.
func (l *lab) all(t *testing.T, p program, hosts, name string, n int, newGroups bool, args ...string) string {
	t.Helper()
	l.topics(t, name, "-in", "-out", "-classic")
	list := "describe,roundtrip,transactions,group"
	if newGroups && p.kip848 {
		l.topics(t, name, "-consumer")
		list += ",group848"
	}
	return l.roundtrip(t, p, hosts, name, n, append(args, "jobs="+list)...)
}

// roundtrip runs jobs of a client, of which one is that; the default is to look
// who is there first.
func (l *lab) roundtrip(t *testing.T, p program, hosts, name string, n int, args ...string) string {
	t.Helper()
	l.topics(t, name, "")
	said := l.start(t, p, hosts, slices.Concat([]string{"jobs=describe,roundtrip", "topic=" + name, fmt.Sprint("n=", n)}, args)...).wait()
	t.Logf("%s", strings.TrimSpace(said))
	if got := l.k.Records(name); got != n {
		t.Errorf("the topic has %d records, want %d", got, n)
	}
	l.k.DeleteTopic(name) // it takes disk
	return said
}
