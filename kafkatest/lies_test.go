package kafkatest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// victim is the client id of who is lied to.
const victim = "victim"

// lies are told in an answer to Metadata version 1: length, correlation id, the
// count of brokers, and for each its id, its host with a length of two bytes …
var lies = map[string]struct {
	tell func(answer []byte)
	says string // of the log, about it
}{
	"too long":            {func(b []byte) { binary.BigEndian.PutUint32(b, math.MaxInt32) }, "an answer of 2147483647 bytes"},
	"a negative length":   {func(b []byte) { binary.BigEndian.PutUint32(b, 1<<31) }, "an answer of -2147483648 bytes"},
	"no room for its id":  {func(b []byte) { binary.BigEndian.PutUint32(b, 3) }, "an answer of 3 bytes"},
	"to another request":  {func(b []byte) { binary.BigEndian.PutUint32(b[4:], 99) }, "correlation id 99"},
	"too many brokers":    {func(b []byte) { binary.BigEndian.PutUint32(b[8:], math.MaxInt32) }, "a broken answer to Metadata"},
	"less than no broker": {func(b []byte) { binary.BigEndian.PutUint32(b[8:], 1<<31) }, "a broken answer to Metadata"},
	"a host without end":  {func(b []byte) { binary.BigEndian.PutUint16(b[16:], math.MaxInt16) }, "a broken answer to Metadata"},
	"HTTP":                {func(b []byte) { copy(b, "HTTP/1.1 400 Bad Request\r\n") }, "speaks HTTP"},
}

// TestLies: an answer that cannot be believed ends its connection, says why in the
// log, and does no more harm.
func TestLies(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for leg, route := range map[string][]string{"plain": nil, "TLS": {ca.terminate()}} {
		t.Run(leg, func(t *testing.T) {
			t.Parallel()
			liars := &liars{}
			c := cluster(t, "newest", kfake.ListenFn(liars.listen), kfake.SeedTopics(partitions, shortTopic))
			d, all := forwarders(t, 1, c.ListenAddrs(), route...)
			if leg == "TLS" {
				d.tls = ca.trust()
			}
			f := start(t, d, classic(franz{}, shortTopic, -1))
			f.goesOn("at first")
			for what, lie := range lies {
				liars.tell(lie.tell)
				said := len(all[0].said.String())
				if answer, err := ask(d, bootstrapPort, metadataFor(victim)); err == nil {
					t.Errorf("%s: the answer has come through: % x", what, answer)
				}
				within(t, func() string {
					if text := all[0].said.String()[said:]; !strings.Contains(text, lie.says) {
						return fmt.Sprintf("%s: the log does not say %q", what, lie.says)
					}
					return ""
				})
			}
			f.goesOn("a broker has told lies")
			if n := strings.Count(all[0].said.String(), `"event":"end"`); n != len(lies) {
				t.Errorf("%d connections have ended; there were %d lies", n, len(lies))
			}
			f.end()
		})
	}
}

func metadataFor(client string) []byte {
	r := kmsg.NewPtrMetadataRequest()
	r.SetVersion(1)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID(client)).AppendRequest(nil, r, 1)
}

// liars are brokers that lie to the victim.
type liars struct {
	mu  sync.Mutex
	lie func(answer []byte)
}

func (l *liars) tell(lie func(answer []byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lie = lie
}

func (l *liars) listen(network, address string) (net.Listener, error) {
	at, err := listenAt("127.0.0.1")(network, address)
	return liar{at, l}, err
}

type liar struct {
	net.Listener
	*liars
}

func (l liar) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &lyingConn{Conn: c, liars: l.liars}, err
}

// lyingConn spoils its answers once the victim has been heard on it.
type lyingConn struct {
	net.Conn
	*liars
	mu    sync.Mutex
	lying bool
}

func (c *lyingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lying = c.lying || bytes.Contains(p[:n], []byte(victim))
	return n, err
}

func (c *lyingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lying {
		c.liars.mu.Lock()
		defer c.liars.mu.Unlock()
		c.liars.lie(p)
	}
	return c.Conn.Write(p)
}

// TestWrongProtocol: who speaks TLS where none is expected, or the other way
// round, finds that in the log.
func TestWrongProtocol(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for what, x := range map[string]struct {
		route, opening, says string
	}{
		"TLS to plain text": {"", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "the client speaks TLS"},
		"plain text to TLS": {ca.terminate(), string(metadataFor("plain")), "TLS"},
		"HTTP":              {"", "GET / HTTP/1.1\r\nHost: kafka\r\n\r\n", "the client speaks HTTP"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var route []string
			if x.route != "" {
				route = append(route, x.route)
			}
			d, all := forwarders(t, 1, cluster(t, "newest").ListenAddrs(), route...)
			if answer, err := ask(d, firstPort+1, []byte(x.opening)); err == nil {
				t.Errorf("there is an answer: % x", answer)
			}
			within(t, func() string {
				if said := all[0].said.String(); !strings.Contains(said, x.says) {
					return fmt.Sprintf("the log does not say %q", x.says)
				}
				return ""
			})
		})
	}
}
