package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"midspan/internal/brokers"
)

// examiner looks at places.
type examiner struct {
	World
	q              Question
	connectTimeout time.Duration
	answerTimeout  time.Duration
}

// expected is who should be there, and who says so.
type expected struct {
	node    int32  // or anyNode
	cluster string // "": not known
	written string // what of the file says so: "`to` of route orders"; "": the cluster does
	midspan bool   // it is midspan's place for the node
}

const anyNode = -1

// visit is a place to look at.
type visit struct {
	at   Place
	name string      // what TLS asks for; "": the place's host
	tls  *tls.Config // nil: plain text
	err  error       // why it is not known how to speak TLS there
	who  *expected   // nil: whoever is there, it is the first
	part bool        // it gets no more than a part of the time: there are others to ask
}

// look is v's place with what becomes of a connection to each address of its name.
func (e *examiner) look(ctx context.Context, v visit) Place {
	p := v.at
	if v.part {
		var cancel context.CancelFunc
		ctx, cancel = part(ctx)
		defer cancel()
	}
	switch {
	case ctx.Err() != nil:
		p.Tries = []Try{{Hop: HopTime, Text: fmt.Sprintf("%s was not looked at: the time was over before", p), advice: "give it more with --timeout"}}
		return p
	case v.err != nil:
		p.Tries = []Try{{Hop: HopTLS, Text: fmt.Sprintf("%s was not looked at: %s", p, v.err), advice: "ask where midspan runs, as a user that may read its files"}}
		return p
	}
	addrs, err := e.addresses(ctx, p.Host)
	if err != nil {
		p.Tries = []Try{{Hop: HopName, Text: fmt.Sprintf("the name %s has no address here: %s", p.Host, lookupText(err)), advice: e.nameAdvice(v.who)}}
		return p
	}
	if v.who == nil && !v.part && len(addrs) > 1 { // a silent one is not to take what is for the nodes that another tells of
		var cancel context.CancelFunc
		ctx, cancel = part(ctx)
		defer cancel()
	}
	addrs = addrs[:min(len(addrs), maxAddresses)]
	p.Tries = make([]Try, len(addrs))
	var wg sync.WaitGroup
	for i, a := range addrs {
		wg.Go(func() {
			began := time.Now()
			t := e.try(ctx, netip.AddrPortFrom(a, p.Port), v)
			t.Took = float64(time.Since(began).Microseconds()) / 1000
			p.Tries[i] = t
		})
	}
	wg.Wait()
	return p
}

func (e *examiner) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	addrs, err := e.Lookup(ctx, host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("no address")
	}
	var all []netip.Addr
	for _, a := range addrs {
		all = append(all, a.Unmap())
	}
	return all, err
}

// connect is a connection to addr, over which TLS is yet to be agreed on.
func (e *examiner) connect(ctx context.Context, addr netip.AddrPort, v visit) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, e.connectTimeout)
	defer cancel()
	conn, err := e.Dial(ctx, "tcp", addr.String())
	if err != nil || v.tls == nil {
		return conn, err
	}
	config := v.tls.Clone()
	config.ServerName = orElse(config.ServerName, strings.TrimSuffix(orElse(v.name, v.at.Host), "."))
	return tls.Client(conn, config), nil
}

// try connects, and asks who is there.
func (e *examiner) try(ctx context.Context, addr netip.AddrPort, v visit) Try {
	t, who := Try{Addr: addr}, v.who
	conn, err := e.connect(ctx, addr, v)
	if err != nil {
		t.Hop, t.Text, t.advice = HopConnect, fmt.Sprintf("no connection to %s: %s", addr, dialText(err)), dialAdvice(err, addr, who)
		return t
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, e.answerTimeout)
	defer cancel()
	t.cluster, err = brokers.Ask(ctx, conn)
	if err != nil {
		e.unanswered(&t, err, who)
		return t
	}
	if who == nil {
		return t
	}
	if t.compare(who); !t.works() || who.node == anyNode {
		return t
	}
	switch is, known := brokers.IsNode(ctx, conn, t.cluster.APIs, who.node); {
	case known && !is:
		t.Hop, t.Text = HopNode, fmt.Sprintf("the broker at %s says that it is not node %d", addr, who.node)
		t.advice = "clients that are sent there find another broker and try for ever; let that address lead to node " + fmt.Sprint(who.node) + " and to no other" + who.correct()
	default:
		t.Is = is
	}
	return t
}

// compare finds a broker of another cluster.
func (t *Try) compare(who *expected) {
	if !t.works() || who.cluster == "" || t.cluster.ID == "" || t.cluster.ID == who.cluster {
		return
	}
	t.Hop, t.Text = HopCluster, fmt.Sprintf("at %s is a broker of another cluster: %s instead of %s", t.Addr, t.cluster.ID, who.cluster)
	t.advice = "let the name, or the forwarder on the way, lead to the broker of this cluster" + who.correct()
}

// unanswered fills in what a broker did instead of answering.
func (e *examiner) unanswered(t *Try, err error, who *expected) {
	kind := brokers.KindOf(err)
	if kind == brokers.WantsSASL {
		t.WantsSASL = true
		return
	}
	t.Hop = HopKafka
	said := (*brokers.Error)(nil)
	if errors.As(err, &said) && said.Step == "TLS" {
		t.Hop = HopTLS
	}
	if kind == brokers.Closed && who != nil && who.node != anyNode {
		// Another broker has answered to the same: it is hardly TLS.
		t.Text = fmt.Sprintf("%s: %s: the connection was closed without an answer", t.Addr, said.Step)
		t.advice = fmt.Sprintf("if midspan listens there, see with `midspan status` on its VM whether node %d is known and up; "+
			"else look into the broker's log, and whether this port speaks TLS where the first one does", who.node)
		return
	}
	t.Text = fmt.Sprintf("%s: %s", t.Addr, err)
	t.advice = kindAdvice(kind, t.Hop)
	if kind == brokers.NotKafka {
		t.advice += who.correct()
	}
}

// mechanisms asks the broker that t of v found.
func (e *examiner) mechanisms(ctx context.Context, v visit, t Try) []string {
	conn, err := e.connect(ctx, t.Addr, v)
	if err != nil {
		return nil
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, e.answerTimeout)
	defer cancel()
	names, err := brokers.Mechanisms(ctx, conn, t.cluster.APIs)
	if err != nil {
		return nil // it is more than was asked for
	}
	return names
}

const (
	adviceName = "let this machine's DNS know the name (a forwarder to the zone's servers, or a private zone that is linked to this network)"
	adviceNode = ", or write the node's address into `nodes` of its route"
)

// nameAdvice is what to do where a name has no address.
func (e *examiner) nameAdvice(who *expected) string {
	if who != nil && who.written == "" && e.q.Plan != nil {
		return adviceName + adviceNode
	}
	return adviceName + who.correct()
}

// correct ends an advice where the file says the place.
func (who *expected) correct() string {
	if who == nil || who.written == "" {
		return ""
	}
	return "; or correct " + who.written
}

// kindAdvice is what to do where a broker does not answer.
func kindAdvice(k brokers.Kind, at Hop) string {
	switch k {
	case brokers.Closed:
		other := "kafkas:// if this listener speaks TLS"
		if at == HopTLS {
			other = "kafka:// if this listener speaks plain text"
		}
		return "ask with " + other + "; else look into the broker's log, or at `midspan status` if midspan listens there"
	case brokers.WantsTLS:
		return "ask with kafkas:// if this listener speaks TLS; else look into the broker's log"
	case brokers.NoTLS:
		return "ask with kafka:// if this listener speaks plain text"
	case brokers.BadTLS:
		return "name who signs the brokers' certificates with --ca FILE, or the name in them with --server-name"
	case brokers.NotKafka:
		return "another program listens there; look at host and port"
	case brokers.Timeout:
		return "it accepts connections and says nothing: look at the broker, or at the forwarder on the way whose server does not answer"
	}
	return "look into the broker's log"
}

// dialAdvice is what to do where there is no connection.
func dialAdvice(err error, addr netip.AddrPort, who *expected) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED) && who == nil:
		return "nothing listens there: start what should, or look at host and port"
	case errors.Is(err, syscall.ECONNREFUSED) && who.midspan:
		return "nothing listens there: see with `midspan status` on its VM whether it has that port, and whether what stands before it leads there"
	case errors.Is(err, syscall.ECONNREFUSED) && who.written != "":
		return "nothing listens there: start the broker, or correct its port in " + who.written
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: start the broker, or correct the port that it advertises"
	case errors.Is(err, syscall.ECONNRESET):
		return "something listens there and resets the connection: if it is midspan, see `midspan status` on its VM"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fmt.Sprintf("there is no way there from this machine: see `ip route get %s`", addr.Addr())
	case timedOut(err):
		return fmt.Sprintf("a firewall on the way drops it, or the way back is missing: let TCP from this machine to %s through", addr)
	}
	return fmt.Sprintf("see whether this machine may connect to %s", addr)
}

func timedOut(err error) bool {
	wire := net.Error(nil)
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &wire) && wire.Timeout()
}

// dialText is an error as the operating system puts it.
func dialText(err error) string {
	errno := syscall.Errno(0)
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case timedOut(err):
		return "no answer"
	}
	return err.Error()
}

func lookupText(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.Err
	}
	if timedOut(err) {
		return "no answer"
	}
	return err.Error()
}

// orElse is a, or b if there is none.
func orElse(a, b string) string {
	if a == "" {
		return b
	}
	return a
}
