package brokers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kind is what kind of error it was.
type Kind string

// The kinds.
const (
	// Closed: the connection ended at the first request, or in the handshake. Brokers
	// do that to who speaks no TLS where they do, or the reverse, if they do not say
	// so; a forwarder does, when it has nowhere to go.
	Closed Kind = "closed"
	// WantsSASL: it ended at the second request. Kafka's own brokers do that to who
	// does not authenticate.
	WantsSASL Kind = "wants SASL"
	// WantsTLS: the answer to a request in plain text is TLS.
	WantsTLS Kind = "wants TLS"
	// NoTLS: the handshake failed because the other end does not speak TLS.
	NoTLS Kind = "no TLS"
	// BadTLS: the handshake failed for another reason, such as a certificate.
	BadTLS Kind = "TLS failed"
	// NotKafka: the answer is none of the protocol's.
	NotKafka Kind = "not Kafka"
	// OtherVersions: no version of a request is known to both sides.
	OtherVersions Kind = "other versions"
	// Refused: the broker answers with an error code.
	Refused Kind = "refused"
	// Timeout: the context ended, or the connection's deadline came.
	Timeout Kind = "timeout"
	// Broken: the connection failed in another way.
	Broken Kind = "broken"
)

// Error is why a broker did not say what it was asked for.
type Error struct {
	Kind Kind
	Step string // "TLS", or the name of the request: "ApiVersions", "Metadata"
	Text string // what the broker, or the connection, did
}

const stepTLS = "TLS"

var stepAPIs, stepNodes = kmsg.ApiVersions.Name(), kmsg.Metadata.Name()

func (e *Error) Error() string { return e.Step + ": the broker " + e.Text }

// KindOf is the kind of an error of Ask; "": of none.
func KindOf(err error) Kind {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// broken is the error of a connection that failed, or ended, at a request.
func broken(step string, err error) *Error {
	switch {
	case timedOut(err):
		return &Error{Timeout, step, "did not answer in time"}
	case ended(err) && step == stepAPIs:
		return &Error{Closed, step, "closed the connection without an answer; it may want TLS"}
	case ended(err):
		return &Error{WantsSASL, step, "closed the connection: it wants SASL first"}
	case remote(err):
		return &Error{BadTLS, step, "ended TLS: " + tlsText(err)}
	}
	return &Error{Broken, step, "cannot be reached any more: " + wireText(err)}
}

// handshakeError is why TLS could not be agreed on.
func handshakeError(err error) *Error {
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		return &Error{NoTLS, stepTLS, fmt.Sprintf("does not speak it: it answers %q", record.RecordHeader[:])}
	case timedOut(err):
		return &Error{Timeout, stepTLS, "did not answer in time"}
	case ended(err):
		return &Error{Closed, stepTLS, "closed the connection: it may not speak TLS"}
	case remote(err):
		return &Error{BadTLS, stepTLS, "refuses the handshake: " + tlsText(err)}
	}
	return &Error{BadTLS, stepTLS, "is not trusted: " + tlsText(err)}
}

// unreadable is the error for an answer that is none of the protocol's.
func unreadable(step string, got []byte) *Error {
	if speaksTLS(got) {
		return &Error{WantsTLS, step, "answers in TLS, and was asked in plain text"}
	}
	return &Error{NotKafka, step, fmt.Sprintf("does not speak Kafka's protocol: it answers %q", brief(string(got)))}
}

// codes are Kafka's error codes (protocol guide, "Error Codes") that a broker may
// answer here.
var codes = map[int16]string{
	29: "TOPIC_AUTHORIZATION_FAILED",
	31: "CLUSTER_AUTHORIZATION_FAILED",
	34: "ILLEGAL_SASL_STATE",
	35: "UNSUPPORTED_VERSION",
	58: "SASL_AUTHENTICATION_FAILED",
}

func refused(step string, code int16) *Error {
	text := "answers with error " + strconv.Itoa(int(code))
	if name := codes[code]; name != "" {
		text += " (" + name + ")"
	}
	kind := Refused
	if code == 34 || code == 58 {
		kind = WantsSASL
	}
	return &Error{kind, step, text}
}

func timedOut(err error) bool {
	wire := net.Error(nil)
	return errors.Is(err, context.Canceled) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &wire) && wire.Timeout()
}

func ended(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed, io.ErrClosedPipe} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// remote tells whether the other end said in TLS what is wrong.
func remote(err error) bool {
	op := (*net.OpError)(nil)
	return errors.As(err, &op) && op.Op == "remote error"
}

// tlsText is an error without the names of Go's packages.
func tlsText(err error) string {
	op := (*net.OpError)(nil)
	if errors.As(err, &op) {
		err = op.Err
	}
	text := strings.TrimPrefix(err.Error(), "tls: ")
	return strings.ReplaceAll(text, "failed to verify certificate: x509: ", "")
}

// wireText is an error as the operating system puts it.
func wireText(err error) string {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// brief is the beginning of what somebody else wrote.
func brief(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
