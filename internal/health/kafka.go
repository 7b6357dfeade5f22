package health

import (
	"encoding/binary"
	"errors"
	"strconv"
)

// Kafka's protocol guide: a message is preceded by its size; ApiVersions is the
// one request that every broker answers, before authentication too (KIP-35,
// KIP-43), and in version 0 whatever else it knows (KIP-511).
const (
	kafkaAPIVersions = 18
	kafkaMark        = 0x6d696473 // correlation id; the answer repeats it

	kafkaNone        = 0
	kafkaUnsupported = 35 // UNSUPPORTED_VERSION: still an answer of a broker's

	// RFC 8446, section 5.1: a record's type, and the first byte of its version.
	tlsAlert     = 0x15
	tlsHandshake = 0x16
	tlsMajor     = 0x03
)

// errBrokerTLS is for a broker that answers a question in plain text with TLS.
var errBrokerTLS = errors.New("the broker speaks TLS; add upstream_tls to the route, or use the port of its plain listener")

func kafkaQuestion() []byte {
	b := make([]byte, 4)
	b = binary.BigEndian.AppendUint16(b, kafkaAPIVersions)
	b = binary.BigEndian.AppendUint16(b, 0) // version
	b = binary.BigEndian.AppendUint32(b, kafkaMark)
	b = binary.BigEndian.AppendUint16(b, uint16(len(ourName))) // client id
	b = append(b, ourName...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// askKafka asks a broker which requests it knows.
func askKafka(k *talk) error {
	const want = "an answer to ApiVersions"
	if err := k.say(kafkaQuestion()); err != nil {
		return err
	}
	if first, err := k.Peek(2); err == nil && (first[0] == tlsAlert || first[0] == tlsHandshake) && first[1] == tlsMajor {
		return errBrokerTLS
	}
	head := make([]byte, 10) // size, correlation id, error code
	if err := k.full(head); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head)
	if size < 6 || size > maxAnswer-4 || binary.BigEndian.Uint32(head[4:]) != kafkaMark {
		return unexpected(want, head)
	}
	if err := k.full(make([]byte, size-6)); err != nil {
		return err
	}
	switch code := int16(binary.BigEndian.Uint16(head[8:])); code {
	case kafkaNone, kafkaUnsupported:
		return nil
	default:
		return says("no to ApiVersions", "error code "+strconv.Itoa(int(code)))
	}
}
