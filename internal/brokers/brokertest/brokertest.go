// Package brokertest has a broker for tests: it says what it is told to say, and
// has no topics.
package brokertest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"midspan/internal/brokers"
)

// Broker answers ApiVersions, Metadata, DescribeConfigs and SaslHandshake. It is not
// changed once it serves.
type Broker struct {
	ID      int32
	Cluster string
	Nodes   []brokers.Node
	// Mechanisms of SASL: with one, it ends the connection at all else but
	// ApiVersions and SaslHandshake.
	Mechanisms []string
	// Secretive: it does not say which node it is.
	Secretive bool
	Unknown   int // so many APIs that nobody knows yet
}

// Serve answers on all connections, until ln is closed.
func (b *Broker) Serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for b.one(c) == nil {
			}
		}()
	}
}

var errNoAnswer = errors.New("brokertest: no answer")

// one answers one request.
func (b *Broker) one(c io.ReadWriter) error {
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head)
	if size > 1<<20 { // of TLS, say
		return errNoAnswer
	}
	frame := make([]byte, size)
	if _, err := io.ReadFull(c, frame); err != nil {
		return err
	}
	if len(frame) < 10 { // key, version, correlation id, length of the client's id
		return errNoAnswer
	}
	q := kmsg.RequestForKey(int16(binary.BigEndian.Uint16(frame)))
	if q == nil {
		return errNoAnswer
	}
	q.SetVersion(int16(binary.BigEndian.Uint16(frame[2:])))
	at := 10 + max(0, int(int16(binary.BigEndian.Uint16(frame[8:]))))
	if q.IsFlexible() || at > len(frame) || q.ReadFrom(frame[at:]) != nil {
		return errNoAnswer
	}
	a, err := b.answer(q)
	if err != nil {
		return err
	}
	text := a.AppendTo(append(make([]byte, 4), frame[4:8]...)) // behind the size, the correlation id
	binary.BigEndian.PutUint32(text, uint32(len(text)-4))
	_, err = c.Write(text)
	return err
}

func (b *Broker) answer(q kmsg.Request) (kmsg.Response, error) {
	a := q.ResponseKind()
	a.SetVersion(q.GetVersion())
	switch a := a.(type) {
	case *kmsg.ApiVersionsResponse:
		b.versions(a)
		return a, nil
	case *kmsg.SASLHandshakeResponse:
		a.ErrorCode, a.SupportedMechanisms = 33, b.Mechanisms // UNSUPPORTED_SASL_MECHANISM
		return a, nil
	}
	if len(b.Mechanisms) > 0 {
		return nil, errNoAnswer
	}
	switch a := a.(type) {
	case *kmsg.MetadataResponse:
		b.metadata(a)
	case *kmsg.DescribeConfigsResponse:
		x := kmsg.NewDescribeConfigsResponseResource()
		for _, r := range q.(*kmsg.DescribeConfigsRequest).Resources {
			x.ResourceName = r.ResourceName
		}
		switch {
		case b.Secretive:
			x.ErrorCode = 31 // CLUSTER_AUTHORIZATION_FAILED
		case x.ResourceName != strconv.Itoa(int(b.ID)):
			x.ErrorCode = 42 // INVALID_REQUEST
		}
		a.Resources = append(a.Resources, x)
	default:
		return nil, errNoAnswer
	}
	return a, nil
}

func (b *Broker) metadata(a *kmsg.MetadataResponse) {
	a.ClusterID, a.ControllerID = &b.Cluster, b.ID
	for _, n := range b.Nodes {
		x := kmsg.NewMetadataResponseBroker()
		x.NodeID, x.Host, x.Port = n.ID, n.Host, int32(n.Port)
		if n.Rack != "" {
			x.Rack = &n.Rack
		}
		a.Brokers = append(a.Brokers, x)
	}
}

// versions are those of Kafka 4.x.
func (b *Broker) versions(a *kmsg.ApiVersionsResponse) {
	add := func(key, newest int16) {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MaxVersion = key, newest
		a.ApiKeys = append(a.ApiKeys, k)
	}
	for _, k := range [][2]int16{{0, 13}, {1, 18}, {3, 13}, {10, 6}, {17, 1}, {18, 4}, {32, 4}, {60, 2}, {68, 1}, {78, 2}} {
		add(k[0], k[1])
	}
	for i := range b.Unknown {
		add(int16(20000+i), 0)
	}
	slices.SortFunc(a.ApiKeys, func(x, y kmsg.ApiVersionsResponseApiKey) int { return int(x.ApiKey) - int(y.ApiKey) })
}
