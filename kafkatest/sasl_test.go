package kafkatest

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/IBM/sarama"
	kafkaplain "github.com/segmentio/kafka-go/sasl/plain"
	kafkascram "github.com/segmentio/kafka-go/sasl/scram"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	xdg "github.com/xdg-go/scram"
)

const user, password = "alice", "in wonderland"

// TestSASL: whoever a client is, passes.
func TestSASL(t *testing.T) {
	ours := scram.Auth{User: user, Pass: password}
	theirs := func(algorithm kafkascram.Algorithm) segmentio {
		m, err := kafkascram.Mechanism(algorithm, user, password)
		if err != nil {
			t.Fatal(err)
		}
		return segmentio{m}
	}
	for name, cl := range map[string]client{
		"franz-go PLAIN":         franz{[]kgo.Opt{kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism())}},
		"franz-go SCRAM-SHA-256": franz{[]kgo.Opt{kgo.SASL(ours.AsSha256Mechanism())}},
		"franz-go SCRAM-SHA-512": franz{[]kgo.Opt{kgo.SASL(ours.AsSha512Mechanism())}},
		"sarama PLAIN":           shopify{sarama.MaxVersion, saramaPlain(sarama.SASLHandshakeV1)},
		"sarama SCRAM-SHA-512":   shopify{sarama.V2_8_0_0, saramaSCRAM(sarama.SASLTypeSCRAMSHA512, sarama.SASLHandshakeV1)},
		"kafka-go PLAIN":         segmentio{kafkaplain.Mechanism{Username: user, Password: password}},
		"kafka-go SCRAM-SHA-256": theirs(kafkascram.SHA256),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			short(t, cl, cluster(t, "newest", secured()...))
		})
	}
}

// secured are options of a cluster that lets in who has the password.
func secured() []kfake.Opt {
	opts := []kfake.Opt{kfake.EnableSASL(), kfake.SeedTopics(partitions, shortTopic)}
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		opts = append(opts, kfake.Superuser(mechanism, user, password))
	}
	return opts
}

const shortTopic = "short"

// short lets records flow through a forwarder of their own.
func short(t *testing.T, cl client, c *kfake.Cluster) {
	t.Helper()
	d, _ := forwarders(t, 1, c.ListenAddrs())
	flowsOn(t, cl, c, d)
}

// flowsOn lets records flow, also after a leader has moved.
func flowsOn(t *testing.T, cl client, c *kfake.Cluster, d *dialler) {
	t.Helper()
	f := start(t, d, classic(cl, shortTopic, -1))
	f.goesOn("at first")
	if err := changes[0].do(c, []string{shortTopic}); err != nil {
		t.Fatal(err)
	}
	f.goesOn(changes[0].what)
	f.end()
}

// TestReauthentication: a client proves who it is again while its connection is in use (KIP-368).
func TestReauthentication(t *testing.T) {
	t.Parallel()
	c := cluster(t, "newest", append(secured(), kfake.BrokerConfigs(map[string]string{"connections.max.reauth.ms": "3000"}))...)
	d, _ := forwarders(t, 1, c.ListenAddrs())
	var proofs atomic.Int64
	c.ControlKey(kmsg.SASLAuthenticate.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		proofs.Add(1)
		return nil, nil, false
	})
	cl := franz{[]kgo.Opt{kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism())}}
	f := start(t, d, classic(cl, shortTopic, -1))
	f.goesOn("at first")
	within(t, func() string {
		if n, all := int(proofs.Load()), d.connections(); n < 2*all {
			return fmt.Sprintf("%d connections have been authenticated %d times in all", all, n)
		}
		return ""
	})
	f.end()
}

// TestOAuth: kfake does not know OAUTHBEARER, so it is told what to answer.
func TestOAuth(t *testing.T) {
	t.Parallel()
	c := cluster(t, "newest", kfake.SeedTopics(partitions, shortTopic))
	var tokens atomic.Int64
	c.ControlKey(kmsg.SASLHandshake.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return r.ResponseKind(), nil, true
	})
	c.ControlKey(kmsg.SASLAuthenticate.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if string(r.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes) == "n,,\x01auth=Bearer a.b.c\x01\x01" {
			tokens.Add(1)
		}
		return r.ResponseKind(), nil, true
	})
	short(t, franz{[]kgo.Opt{kgo.SASL(oauth.Auth{Token: "a.b.c"}.AsMechanism())}}, c)
	if tokens.Load() == 0 {
		t.Error("no token came through")
	}
}

// TestOldHandshake: after SaslHandshake version 0 come tokens without Kafka's
// header, and then requests.
func TestOldHandshake(t *testing.T) {
	for mechanism, settings := range map[string]func(*sarama.Config){
		sarama.SASLTypePlaintext:   saramaPlain(sarama.SASLHandshakeV0),
		sarama.SASLTypeSCRAMSHA256: saramaSCRAM(sarama.SASLTypeSCRAMSHA256, sarama.SASLHandshakeV0),
	} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			var proofs atomic.Int64
			listen := func(network, address string) (net.Listener, error) {
				l, err := net.Listen(network, address)
				return &oldListener{l, &proofs}, err
			}
			c := cluster(t, "0.11", kfake.ListenFn(listen), kfake.SeedTopics(partitions, shortTopic))
			short(t, shopify{sarama.V0_11_0_0, settings}, c)
			if proofs.Load() == 0 {
				t.Error("nobody has authenticated")
			}
		})
	}
}

func saramaPlain(version int16) func(*sarama.Config) {
	return func(cfg *sarama.Config) {
		cfg.Net.SASL.Enable, cfg.Net.SASL.Version = true, version
		cfg.Net.SASL.User, cfg.Net.SASL.Password = user, password
		cfg.ApiVersionsRequest = version > 0
	}
}

func saramaSCRAM(mechanism sarama.SASLMechanism, version int16) func(*sarama.Config) {
	return func(cfg *sarama.Config) {
		saramaPlain(version)(cfg)
		cfg.Net.SASL.Mechanism = mechanism
		cfg.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient {
			if mechanism == sarama.SASLTypeSCRAMSHA512 {
				return &conversation{hash: xdg.SHA512}
			}
			return &conversation{hash: xdg.SHA256}
		}
	}
}

// conversation is a client's side of SCRAM.
type conversation struct {
	hash xdg.HashGeneratorFcn
	*xdg.ClientConversation
}

func (c *conversation) Begin(user, password, authzID string) error {
	cl, err := c.hash.NewClient(user, password, authzID)
	if err == nil {
		c.ClientConversation = cl.NewConversation()
	}
	return err
}

// oldListener makes a broker that lets clients in as Kafka 0.10 did; kfake cannot.
// Who does not begin with the old handshake, as a check does not, is let in too.
type oldListener struct {
	net.Listener
	proofs *atomic.Int64
}

func (l *oldListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &oldConn{Conn: c, proofs: l.proofs}, err
}

type oldConn struct {
	net.Conn
	proofs *atomic.Int64
	begin  sync.Once
	first  []byte // the first frame, if it was no handshake
	err    error
}

func (c *oldConn) Read(p []byte) (int, error) {
	c.begin.Do(func() { c.err = c.handshake() })
	if c.err != nil {
		return 0, c.err
	}
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *oldConn) frame() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(c.Conn, size[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(c.Conn, frame)
	return append(size[:], frame...), err
}

func (c *oldConn) say(token []byte) error {
	_, err := c.Conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(token))), token...))
	return err
}

func (c *oldConn) handshake() error {
	first, err := c.frame()
	if err != nil {
		return err
	}
	if binary.BigEndian.Uint32(first[4:]) != 17<<16 {
		c.first = first
		return nil
	}
	// The answer: correlation id, no error, one mechanism, of no interest to sarama.
	answer := append(append([]byte{}, first[8:12]...), 0, 0, 0, 0, 0, 1, 0, 1, 'X')
	if err := c.say(answer); err != nil {
		return err
	}
	token, err := c.frame()
	if err != nil {
		return err
	}
	if string(token[4:]) == "\x00"+user+"\x00"+password {
		c.proofs.Add(1)
		return c.say(nil)
	}
	return c.scram(token)
}

func (c *oldConn) scram(token []byte) error {
	cl, err := xdg.SHA256.NewClient(user, password, "")
	if err != nil {
		return err
	}
	stored := cl.GetStoredCredentials(xdg.KeyFactors{Salt: "salt", Iters: 4096})
	server, err := xdg.SHA256.NewServer(func(string) (xdg.StoredCredentials, error) { return stored, nil })
	if err != nil {
		return err
	}
	for talk := server.NewConversation(); ; {
		reply, err := talk.Step(string(token[4:]))
		if err != nil {
			return err
		}
		if err := c.say([]byte(reply)); err != nil {
			return err
		}
		if talk.Done() {
			c.proofs.Add(1)
			return nil
		}
		if token, err = c.frame(); err != nil {
			return err
		}
	}
}
