// Package brokers asks a Kafka broker which nodes its cluster has and which APIs it
// knows, without credentials.
//
// Two requests are made on a connection of the caller's: ApiVersions, which every
// broker answers, before authentication too (KIP-35, KIP-43); and Metadata of no
// topic. A broker that wants SASL ends the connection at the second, and logs a
// warning with a stack trace: it should not be asked often.
//
// Limits: an answer has 256 KiB at most, which is some 3000 nodes. Metadata is asked
// for in the versions 1 to 8, which have no tagged fields; brokers from 0.10 to 4.x
// know one of them.
package brokers

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	clientID = "midspan"
	// maxAnswer is in bytes. It also bounds what is set aside for the counts that an
	// answer claims.
	maxAnswer = 256 << 10

	// In version 0 of Metadata, no topics means all. From version 9 on there are
	// tagged fields, of which kmsg takes the number on trust.
	minMetadata, maxMetadata = 1, 8
)

// Cluster is what a broker says of its cluster and of itself.
type Cluster struct {
	ID         string `json:"id,omitempty"` // "": a broker older than 0.10.1, or one that does not say
	Controller int32  `json:"controller"`   // its node's ID; -1: not known
	Nodes      []Node `json:"nodes"`        // those that are alive, in the order of the answer
	APIs       []API  `json:"apis"`         // that the broker knows, in the order of the answer
}

// Node is a broker, at the address that clients of this listener are told.
type Node struct {
	ID   int32  `json:"id"`
	Host string `json:"host"`
	Port uint16 `json:"port"`
	Rack string `json:"rack,omitempty"`
}

// API is a kind of requests, with the versions of it that the broker knows.
type API struct {
	Key int16 `json:"key"`
	Min int16 `json:"min"`
	Max int16 `json:"max"`
}

// Name is the protocol guide's; "" for an API that is newer than this program.
func (a API) Name() string {
	if name := kmsg.NameForKey(a.Key); name != "Unknown" {
		return name
	}
	return ""
}

// Ask asks the broker at the other end of conn. Where that is a *tls.Conn, it does
// the handshake first. When ctx ends, so does Ask; conn is the caller's to close, and
// no good for anything else if there was an error.
//
// An error that says something of the broker is an *Error. What was learned until
// then is returned with it: of a broker that wants SASL, the APIs.
func Ask(ctx context.Context, conn net.Conn) (Cluster, error) {
	hangUp := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a connection that is gone fails by itself
	defer hangUp()
	c := Cluster{Controller: -1}
	if t, ok := conn.(interface{ HandshakeContext(context.Context) error }); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			return c, handshakeError(err)
		}
	}
	var err error
	if c.APIs, err = askAPIs(conn); err != nil {
		return c, err
	}
	return c, askNodes(conn, &c)
}

// askAPIs uses version 0, which every broker answers.
func askAPIs(conn net.Conn) ([]API, error) {
	q := kmsg.NewPtrApiVersionsRequest()
	body, err := exchange(conn, q, 1)
	if err != nil {
		return nil, err
	}
	a := kmsg.NewPtrApiVersionsResponse()
	if err := a.ReadFrom(body); err != nil {
		return nil, unreadable(stepAPIs, body)
	}
	if a.ErrorCode != 0 {
		return nil, refused(stepAPIs, a.ErrorCode)
	}
	apis := make([]API, 0, len(a.ApiKeys))
	for _, k := range a.ApiKeys {
		apis = append(apis, API{k.ApiKey, k.MinVersion, k.MaxVersion})
	}
	return apis, nil
}

func askNodes(conn net.Conn, c *Cluster) error {
	q := kmsg.NewPtrMetadataRequest()
	version, err := metadataVersion(c.APIs)
	if err != nil {
		return err
	}
	q.Version, q.Topics = version, []kmsg.MetadataRequestTopic{} // nil would be all
	body, err := exchange(conn, q, 2)
	if err != nil {
		return err
	}
	a := kmsg.NewPtrMetadataResponse()
	a.Version = version
	if err := a.ReadFrom(body); err != nil {
		return unreadable(stepNodes, body)
	}
	if a.ClusterID != nil {
		c.ID = *a.ClusterID
	}
	c.Controller = a.ControllerID
	for _, b := range a.Brokers {
		if b.NodeID < 0 || b.Port <= 0 || b.Port > 1<<16-1 || b.Host == "" {
			return &Error{NotKafka, stepNodes, fmt.Sprintf("names node %d at %q port %d", b.NodeID, brief(b.Host), b.Port)}
		}
		n := Node{ID: b.NodeID, Host: b.Host, Port: uint16(b.Port)}
		if b.Rack != nil {
			n.Rack = *b.Rack
		}
		c.Nodes = append(c.Nodes, n)
	}
	return nil
}

// metadataVersion is the newest that both sides know.
func metadataVersion(apis []API) (int16, error) {
	for _, a := range apis {
		if a.Key != int16(kmsg.Metadata) {
			continue
		}
		if v := min(a.Max, maxMetadata); v >= max(a.Min, minMetadata) {
			return v, nil
		}
		return 0, &Error{OtherVersions, stepNodes, fmt.Sprintf("knows versions %d to %d of it, and we %d to %d", a.Min, a.Max, minMetadata, maxMetadata)}
	}
	return 0, &Error{OtherVersions, stepNodes, "does not know it; is this the listener of a controller?"}
}

// exchange sends q and returns the answer behind its correlation id.
func exchange(conn net.Conn, q kmsg.Request, id int32) ([]byte, error) {
	step := kmsg.NameForKey(q.Key())
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)).AppendRequest(nil, q, id)
	if _, err := conn.Write(frame); err != nil {
		return nil, broken(step, err)
	}
	head := make([]byte, 8) // size (of what follows it), correlation id
	if n, err := io.ReadFull(conn, head); err != nil {
		if n > 0 && foreign(head[:n]) {
			return nil, unreadable(step, head[:n])
		}
		return nil, broken(step, err)
	}
	size := binary.BigEndian.Uint32(head)
	if foreign(head) || size < 4 || size > maxAnswer || binary.BigEndian.Uint32(head[4:]) != uint32(id) {
		return nil, unreadable(step, head)
	}
	// Not more is set aside than comes.
	var body bytes.Buffer
	if _, err := io.CopyN(&body, conn, int64(size)-4); err != nil {
		return nil, broken(step, err)
	}
	return body.Bytes(), nil
}

// foreign tells whether an answer begins as another protocol does: TLS's alert and
// handshake records (RFC 8446, section 5.1), or text, whose size would be above 512 MiB.
func foreign(head []byte) bool {
	return head[0] >= ' ' || speaksTLS(head)
}

func speaksTLS(head []byte) bool {
	return len(head) > 1 && (head[0] == 0x15 || head[0] == 0x16) && head[1] == 3
}
