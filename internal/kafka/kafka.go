// Package kafka rewrites the addresses of brokers in what a Kafka cluster answers to
// its clients, and nothing else. Bytes in, bytes out: no I/O, no clock, no goroutine.
//
// A frame is copied as it is but for the addresses, so what is not known here (tags, fields
// behind the addresses) passes. Records are never looked at: in a large answer they pass
// unread. Which answers carry addresses, and how they are laid out, is in layouts.go.
//
// Sources: the protocol guide (kafka.apache.org/protocol) and the message definitions beside
// it; KIP-482 (flexible versions, tagged fields), KIP-511 (ApiVersions), KIP-951 (addresses
// in answers to Produce and Fetch), KIP-932 (share groups).
//
// Limits: the versions of the APIs in layouts.go; newer ones are taken out of what the
// broker says it speaks, and refused from a client that asks nevertheless. Clients of Kafka 0.9
// that send a Kerberos token before anything else are refused.
package kafka

import (
	"sync"
	"sync/atomic"
)

// Sizes, in bytes.
const (
	// MaxBuffered is how much either direction may ask the caller to hold, see Step.Need.
	MaxBuffered = 64 << 20

	// maxFrame is the longest frame that passes, without its length. Brokers take 100 MiB
	// (socket.request.max.bytes) unless told otherwise. What is no Kafka at all (TLS,
	// HTTP, a PROXY header) reads as a length above this; see badRequestSize.
	maxFrame = 200 << 20
)

// maxUnderWay is how many requests of a connection may wait for their answers. Kafka's own
// clients have 5 under way; librdkafka may have any number.
const maxUnderWay = 1000

// Rewrite says what clients are told for a node: the host and port to write in place
// of those that the cluster advertises, or ok false to drop the node from the answer.
// A host may have up to 255 bytes; a longer one drops the node. It is called for every
// broker address in every answer, so it must be fast; it is also how the caller learns of
// nodes. It is not called where there is no node (a negative id, no host).
type Rewrite func(node int32, host string, port int32) (newHost string, newPort int32, ok bool)

// Options hold for all connections of a route; they are not changed once used, nor copied.
type Options struct {
	Rewrite     Rewrite // must be set
	PassUnknown bool    // APIs that are not known here stay in ApiVersions' answer
	// Seen, if set, is called for each request.
	Seen func(key, version int16)

	buffers sync.Pool // *[]byte: answers that were written anew, until they have gone
	small   int       // smallFrame, if not 0: for tests
}

// Conn is one client connection to a broker: requests one way, answers the other,
// in the same order. The zero value is not usable; see New. It holds no buffer while
// nothing is under way, if Sent is called. Requests and Responses may be called by two
// goroutines, each by one (a mutex of its own guards what both use).
type Conn struct {
	o         *Options
	rewritten atomic.Uint64
	req       requests
	resp      responses

	mu    sync.Mutex
	queue queue // requests under way, in the order of their answers
	// raw: after SaslHandshake version 0 come SASL tokens without a header of Kafka's, both
	// ways, until the client sends a request again. Requests writes it, and reads it without the
	// mutex.
	raw bool
}

// New makes the state of one connection.
func New(o *Options) *Conn {
	return &Conn{o: o}
}

// Step is what becomes of the input.
type Step struct {
	// Take is how many bytes of the input are done with; Send goes out in their
	// place. Send is often a part of the input; else it is valid until the next
	// call for the same direction. (Take may be 0 where Send is not empty.)
	Take int
	Send []byte
	// Pass is how many bytes go out unread after Send: first those of the input behind
	// Take (Take does not count them), and as many more from the source as are missing. The
	// direction is called again once all have gone, even without input.
	Pass int64
	// Within: the frame does not end with Pass. What is behind is often a few bytes, which
	// should not go out on their own.
	Within bool
	// Need, if not 0: nothing can be done before there are that many bytes of input
	// (at most MaxBuffered). Take may be > 0 at the same time (Need counts from behind it).
	// 0 means: call again with any new input, or at once if Take > 0 and some is left.
	Need int
	// Full: too many requests wait for answers: call again after Responses has taken some.
	// Of Requests only.
	Full bool
	// Own: an answer of our own is due: call Responses (with what input there is, perhaps
	// none) as soon as all that it gave before has gone. Either direction may say so.
	Own bool
}

// Requests looks at what the client has sent and has not gone out yet; it does not change it, nor
// keep it. An error (of type *Error) ends the connection; what it says is for the log. What came
// before the error has been given by the calls before, and the error stays.
func (c *Conn) Requests(in []byte) (Step, error) {
	if c.req.err != nil {
		return Step{}, c.req.err
	}
	s, err := c.requests(in)
	if err != nil {
		c.req.err = err
		if s.Take > 0 { // first what came before it
			return s, nil
		}
	}
	return s, err
}

// Responses is the same for what the broker has sent.
func (c *Conn) Responses(in []byte) (Step, error) {
	c.Sent()
	if c.resp.err != nil {
		return Step{}, c.resp.err
	}
	s, err := c.responses(in)
	if err != nil {
		c.resp.err = err
		if s.Take > 0 {
			return s, nil
		}
	}
	return s, err
}

// Sent says that Send of the last call of Responses has gone out, and lets go of its buffer. It
// need not be called: the next Responses does it. But that may be long in coming, and a
// connection that rests should hold nothing.
func (c *Conn) Sent() {
	if b := c.resp.out; b != nil {
		c.resp.out = nil
		c.o.release(b)
	}
}

// Pending is how many requests wait for an answer. An answer that is passing is one of them.
func (c *Conn) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.len()
}

// Rewritten is how many frames had addresses that were written anew or dropped. It may be
// called from anywhere.
func (c *Conn) Rewritten() uint64 { return c.rewritten.Load() }

// keepBuffer is how large a buffer may be that is kept for the next answer, in bytes.
const keepBuffer = 256 << 10

// smallFrame is the size, in bytes with the length, up to which an answer that is looked into
// is waited for whole. Larger ones pass as they come, where that can be.
const smallFrame = 64 << 10

func (o *Options) smallFrame() int {
	if o.small > 0 {
		return o.small
	}
	return smallFrame
}

func (o *Options) buffer() *[]byte {
	if b, ok := o.buffers.Get().(*[]byte); ok {
		return b
	}
	return new([]byte)
}

func (o *Options) release(b *[]byte) {
	if cap(*b) <= keepBuffer {
		*b = (*b)[:0]
		o.buffers.Put(b)
	}
}
