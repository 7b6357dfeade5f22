package kafka

import "fmt"

// Error says why a connection cannot go on, and what to do about it where that is known.
type Error struct {
	Broker bool // it is about what the broker sent; else about what the client sent
	Text   string
}

func (e *Error) Error() string { return e.Text }

func clientError(format string, args ...any) *Error {
	return &Error{Text: fmt.Sprintf(format, args...)}
}

func brokerError(format string, args ...any) *Error {
	return &Error{Broker: true, Text: fmt.Sprintf(format, args...)}
}

// badRequestSize is the error for a request that says it has size bytes; head is where that is
// read, four bytes. Bytes of another protocol read as a length that is out of range.
func badRequestSize(head []byte, size int32) *Error {
	switch {
	case head[0] == 0x16 && head[1] == 0x03: // a TLS record of a handshake, RFC 8446 section 5.1
		return clientError("the client speaks TLS, and this route takes plain text; add `tls` to the route, or set the client's security.protocol to PLAINTEXT or SASL_PLAINTEXT")
	case string(head) == "PROX", string(head) == "\r\n\r\n":
		return clientError("a PROXY header, and this route takes none; add `proxy_protocol: required` to the route, or turn it off at the sender")
	}
	switch string(head) {
	case "GET ", "POST", "HEAD", "PUT ", "OPTI", "CONN", "DELE", "PATC":
		return clientError("the client speaks HTTP, not Kafka; it has the wrong port")
	}
	return clientError("a request of %d bytes; 8 to %d are possible: the client does not speak Kafka, or sends more than a broker takes", size, maxFrame)
}

// badAnswerSize is the same for what the broker sent.
func badAnswerSize(head []byte, size int32) *Error {
	switch {
	case (head[0] == 0x15 || head[0] == 0x16) && head[1] == 0x03: // a TLS record: an alert, a handshake
		return brokerError("the broker speaks TLS, and is sent plain text; add `upstream_tls` to the route, or lead it to the broker's plain listener")
	case string(head) == "HTTP":
		return brokerError("the server speaks HTTP, not Kafka; the route leads to the wrong port")
	}
	return brokerError("an answer of %d bytes; up to %d are possible: the server does not speak Kafka, or the answer is broken", size, maxFrame)
}
