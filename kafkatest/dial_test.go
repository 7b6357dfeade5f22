package kafkatest

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// What every forwarder's file says. The name resolves nowhere but in a dialler.
const (
	advertised    = "kafka.corp.invalid"
	bootstrapPort = 19092
	firstPort     = 19100 // node n is at firstPort+n
	lastPort      = 19115
)

// dialler is how clients reach the forwarders, and nothing else. With several,
// each connection goes to any of them, as behind a load balancer.
type dialler struct {
	t     *testing.T
	hosts []string              // the forwarders' addresses
	tls   *tls.Config           // for the name that is dialled; nil: plain text
	names func(port int) string // that clients are told

	mu    sync.Mutex
	leaks map[string]int // other addresses that a client wanted
	ports map[int]int    // connections by port
}

func newDialler(t *testing.T, hosts ...string) *dialler {
	d := &dialler{t: t, hosts: hosts, names: oneName, leaks: map[string]int{}, ports: map[int]int{}}
	t.Cleanup(d.check)
	return d
}

func oneName(int) string { return advertised }

// check fails the test if a client has ever wanted a broker's own address.
func (d *dialler) check() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for addr, n := range d.leaks {
		d.t.Errorf("a client dialled %s, which is not the forwarder, %d times", addr, n)
	}
}

// DialContext dials a forwarder if addr is what forwarders tell clients.
func (d *dialler) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	ours := host == d.names(port) && (port == bootstrapPort || port >= firstPort && port <= lastPort)
	if ours {
		d.ports[port]++
	} else {
		d.leaks[addr]++
	}
	d.mu.Unlock()
	if !ours {
		return nil, fmt.Errorf("%s is not reachable from here", addr)
	}
	forwarder := d.hosts[rand.IntN(len(d.hosts))]
	at, dialer := net.JoinHostPort(forwarder, text), &net.Dialer{Timeout: 5 * time.Second}
	if d.tls == nil {
		return dialer.DialContext(ctx, network, at)
	}
	cfg := d.tls.Clone()
	cfg.ServerName = host
	return (&tls.Dialer{NetDialer: dialer, Config: cfg}).DialContext(ctx, network, at)
}

// Dial is DialContext, for sarama.
func (d *dialler) Dial(network, addr string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, addr)
}

// leaked tells whether a client has wanted another address.
func (d *dialler) leaked() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.leaks) > 0
}

// dialled is how many connections clients have asked of a port.
func (d *dialler) dialled(port int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ports[port]
}

// connections is how many connections clients have asked for.
func (d *dialler) connections() (all int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.ports {
		all += n
	}
	return all
}

// bootstrap is all that a client is told.
var bootstrap = net.JoinHostPort(advertised, strconv.Itoa(bootstrapPort))

func TestDiallerSeesLeaks(t *testing.T) {
	d := &dialler{t: t, hosts: []string{"127.0.0.1"}, names: oneName, leaks: map[string]int{}, ports: map[int]int{}}
	for _, addr := range []string{"127.0.0.1:19092", advertised + ":9092", advertised + ":19116"} {
		if _, err := d.Dial("tcp", addr); err == nil || d.leaks[addr] != 1 {
			t.Errorf("%s passed for the forwarder's: %v", addr, err)
		}
	}
}

// loopback is an address of this host that no other test has, so that all can use
// the same ports, as forwarders on different machines do.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 2+rand.IntN(250))
}
