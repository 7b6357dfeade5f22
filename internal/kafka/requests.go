package kafka

import "encoding/binary"

// Keys of APIs (KIP-35 and the protocol guide, "API keys").
const (
	keyProduce          = 0
	keyFetch            = 1
	keyMetadata         = 3
	keyFindCoordinator  = 10
	keySaslHandshake    = 17
	keyApiVersions      = 18
	keyDescribeCluster  = 60
	keyShareFetch       = 78
	keyShareAcknowledge = 79

	// lastKey is the last that is known here, of Kafka 4.3: what newer ones carry, nobody knows.
	lastKey = 94
	// maxKey is the last that is taken for one at all, and maxVersion the last version.
	maxKey     = 200
	maxVersion = 200
)

// Sizes of heads, in bytes: a request is its length (4), key (2), version (2), correlation
// id (4) and more; an answer its length and correlation id.
const (
	sizeLen     = 4
	requestHead = 12
	answerHead  = 8

	// minRequest is the least length a request can have: that of a head.
	minRequest = requestHead - sizeLen
)

// requestPart is as much of a Produce request as may be asked for at once, in bytes, or
// twice what is there: nothing is held for bytes that are only promised.
const requestPart = 4 << 10

// maxRequestHead is how many bytes of a Produce request are looked at for its acks: a
// client id and a transactional id of 32 KiB each may stand before them.
const maxRequestHead = 128 << 10

// maxToken is the longest SASL token, in bytes: twice what a broker takes
// (sasl.server.max.receive.size, 512 KiB by default).
const maxToken = 1 << 20

// requests is the state of that direction.
type requests struct {
	drop int64 // bytes still to come of a request that is not passed on
	err  error
}

// verdict is what becomes of one request.
type verdict struct {
	need int  // more bytes are needed to tell
	size int  // its bytes with the length
	full bool // not now
	drop bool // it is not passed on
}

func (c *Conn) requests(in []byte) (Step, error) {
	at, own := 0, false
	for at < len(in) {
		if c.req.drop > 0 {
			n := int(min(c.req.drop, int64(len(in)-at)))
			c.req.drop -= int64(n)
			return Step{Take: at + n, Send: in[:at], Own: own}, nil
		}
		v, err := c.request(in[at:])
		switch {
		case err != nil || v.need > 0 || v.full:
			return Step{Take: at, Send: in[:at], Need: v.need, Full: v.full}, err
		case v.drop:
			own = c.ownIsNext()
			c.req.drop = int64(v.size)
		case v.size > len(in)-at:
			return Step{Take: at, Send: in[:at], Pass: int64(v.size)}, nil
		default:
			at += v.size
		}
	}
	return Step{Take: at, Send: in[:at]}, nil
}

// request looks at the begin of one, and notes it if it can go.
func (c *Conn) request(b []byte) (verdict, error) {
	if len(b) < sizeLen {
		return verdict{need: sizeLen}, nil
	}
	size := int32(binary.BigEndian.Uint32(b))
	if c.raw && size >= 0 && size < minRequest {
		return verdict{size: sizeLen + int(size)}, nil
	}
	if size < minRequest || size > maxFrame {
		return verdict{}, badRequestSize(b[:sizeLen], size)
	}
	if len(b) < requestHead {
		return verdict{need: requestHead}, nil
	}
	total := sizeLen + int(size)
	r := request{
		key:         int16(binary.BigEndian.Uint16(b[4:])),
		version:     int16(binary.BigEndian.Uint16(b[6:])),
		correlation: int32(binary.BigEndian.Uint32(b[8:])),
	}
	if c.raw && !couldBeRequest(r) {
		if size > maxToken {
			return verdict{}, clientError("a SASL token of %d bytes; up to %d are taken", size, maxToken)
		}
		return verdict{size: total}, nil
	}
	return c.note(r, b, total)
}

// couldBeRequest tells a request from a SASL token. A token starts with its mechanism's
// syntax: PLAIN with "\0" and a name, SCRAM and OAUTHBEARER with "n,," and then "c=", Kerberos
// with 0x60 or 0x05. Whatever that is read as, key or version are out of range.
func couldBeRequest(r request) bool {
	const versions = 32 // no API has had as many
	return r.key >= 0 && r.key <= maxKey && r.version >= 0 && r.version <= versions
}

// note takes a request into the queue, if it has an answer and there is room.
func (c *Conn) note(r request, b []byte, total int) (verdict, error) {
	if r.key < 0 || r.key > maxKey || r.version < 0 || r.version > maxVersion {
		return verdict{}, clientError("a request for API %d in version %d, which do not exist: the client does not speak Kafka, or not after TLS or SASL that should come first", r.key, r.version)
	}
	answered, need, err := hasAnswer(r, b, total)
	if need > 0 || err != nil {
		return verdict{need: need}, err
	}
	if v, known := lastVersion(r.key); known && r.version > v {
		if r.key != keyApiVersions {
			return verdict{}, clientError("a request for %s in version %d; midspan knows versions up to %d, and says so to clients that ask (ApiVersions)", apiName(r.key), r.version, v)
		}
		r.own = true
	}
	if !c.enter(r, answered) {
		return verdict{full: true}, nil
	}
	if c.o.Seen != nil {
		c.o.Seen(r.key, r.version)
	}
	return verdict{size: total, drop: r.own}, nil
}

// enter puts a request in the queue, if there is room.
func (c *Conn) enter(r request, answered bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue.full() {
		return false
	}
	if answered {
		c.queue.push(r)
	}
	c.raw = r.key == keySaslHandshake && r.version == 0 // tokens come next, or they are over
	return true
}

// hasAnswer tells whether the broker will answer: to Produce with acks 0 it does not.
func hasAnswer(r request, b []byte, total int) (answered bool, need int, err error) {
	if r.key != keyProduce {
		return true, 0, nil
	}
	w := walk{prog: produceHead(r.version), left: int64(total)}
	_, need, err = w.hold(b)
	switch {
	case err != nil:
		return false, 0, clientError("a Produce request (version %d) that is broken: %v", r.version, err)
	case need > maxRequestHead:
		return false, 0, clientError("a Produce request (version %d) without acks in its first %d bytes", r.version, maxRequestHead)
	case need > 0:
		return false, min(need, max(requestPart, 2*len(b))), nil
	}
	return int16(w.value) != 0, 0, nil
}

// ownIsNext tells whether the next answer is ours.
func (c *Conn) ownIsNext() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.len() > 0 && c.queue.front().own
}
