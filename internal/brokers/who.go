package brokers

import (
	"context"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Metadata does not say which node it is that answers. DescribeConfigs does, in
// effect: a broker has settings for itself only, and refuses another node's id with
// INVALID_REQUEST. From version 4 on it has tagged fields.
const (
	minConfigs, maxConfigs = 0, 3
	invalidRequest         = 42
)

// IsNode tells whether the broker at the other end of conn, which Ask has used
// without an error, is that node. known is false where it does not say: it may be
// allowed to nobody, or the broker may be of another make. The broker's log has a
// line of level INFO if it is not the node.
func IsNode(ctx context.Context, conn net.Conn, apis []API, id int32) (is, known bool) {
	hangUp := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a connection that is gone fails by itself
	defer hangUp()
	version, ok := common(apis, kmsg.DescribeConfigs, minConfigs, maxConfigs)
	if !ok {
		return false, false
	}
	q := kmsg.NewPtrDescribeConfigsRequest()
	q.Version = version
	q.Resources = []kmsg.DescribeConfigsRequestResource{{
		ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: strconv.Itoa(int(id)), ConfigNames: []string{"broker.id"},
	}}
	body, err := exchange(conn, q, 3)
	if err != nil {
		return false, false
	}
	a := kmsg.NewPtrDescribeConfigsResponse()
	a.Version = version
	if err := a.ReadFrom(body); err != nil || len(a.Resources) != 1 {
		return false, false
	}
	code := a.Resources[0].ErrorCode
	return code == 0, code == 0 || code == invalidRequest
}

// Mechanisms are those of SASL that the broker at the other end of conn, a new
// connection, has: it names them to who asks for one that nobody has. apis is what
// Ask returned. Where conn is a *tls.Conn, it does the handshake first.
func Mechanisms(ctx context.Context, conn net.Conn, apis []API) ([]string, error) {
	hangUp := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer hangUp()
	if t, ok := conn.(interface{ HandshakeContext(context.Context) error }); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, handshakeError(err)
		}
	}
	step := kmsg.SASLHandshake.Name()
	version, ok := common(apis, kmsg.SASLHandshake, 0, 1)
	if !ok {
		return nil, &Error{OtherVersions, step, "does not know it"}
	}
	q := kmsg.NewPtrSASLHandshakeRequest()
	q.Version, q.Mechanism = version, clientID
	body, err := exchange(conn, q, 1)
	if err != nil {
		return nil, err
	}
	a := kmsg.NewPtrSASLHandshakeResponse()
	a.Version = version
	if err := a.ReadFrom(body); err != nil {
		return nil, unreadable(step, body)
	}
	names := a.SupportedMechanisms
	slices.Sort(names)
	return names, nil
}

// common is the newest version of a request, of those from oldest to newest, that
// the broker knows too.
func common(apis []API, key kmsg.Key, oldest, newest int16) (int16, bool) {
	for _, a := range apis {
		if a.Key == int16(key) {
			v := min(a.Max, newest)
			return v, v >= max(a.Min, oldest)
		}
	}
	return 0, false
}
