// Package clienthello reads the first message of a TLS connection, of which
// nothing is encrypted: the name that the client asks for, and what it offers.
// It decrypts nothing and decides nothing but whether the message is whole.
//
// Sources: RFC 8446 (TLS 1.3) sections 4.1.2 and 5.1, RFC 6066 section 3
// (server_name), RFC 7301 section 3.1 (ALPN), RFC 8701 (GREASE), RFC 9849 (ECH).
//
// Limits: TLS over a stream, SSL 3.0 and up; no DTLS, no SSL 2.0 hello.
package clienthello

import (
	"errors"
	"fmt"
)

// MaxSize is how many bytes of the stream a ClientHello may take, with the heads
// of its records. Go's crypto/tls takes messages of that size too; browsers send
// 2 KB with a post-quantum key share, and a message cut into records of one
// byte each is six times its size.
const MaxSize = 64 << 10

// Of RFC 8446, section 5.1.
const (
	recordHead    = 5       // type, version, length
	maxRecord     = 1 << 14 // bytes of a record that is not encrypted
	typeHandshake = 22
	majorVersion  = 3 // of a record: SSL 3.0 to TLS 1.3

	messageHead     = 4 // type, length
	typeClientHello = 1
)

// ErrNotTLS says that the stream does not start with a TLS handshake.
var ErrNotTLS = errors.New("not TLS")

// Hello is what a ClientHello says.
type Hello struct {
	// ServerName is the host name in lower case, without a dot at its end; ""
	// where the client names none. With encrypted ClientHello it is the outer one.
	ServerName string
	ALPN       []string // as offered, GREASE left out
	Versions   []uint16 // the same, for example 0x0304 for TLS 1.3
	Encrypted  bool     // there is a ClientHello inside that is encrypted
}

// Parser looks for the end of a ClientHello. Its zero value is ready; it serves
// one stream, and after Reset another one.
type Parser struct {
	// Max is what holds instead of MaxSize, if it is less; 0: it is not.
	Max int

	at      int // where the next record starts
	need    int // size of the message, with its head; 0: not known yet
	have    int // bytes of it, in the records before at
	records int
	head    [messageHead]byte
	hello   Hello
}

// keepOffered is how long the lists are that a Parser keeps for the next stream;
// browsers offer two protocols and five versions.
const keepOffered = 16

// Reset makes p ready for another stream. The Hello that it gave is gone.
func (p *Parser) Reset() {
	alpn, versions := p.hello.ALPN, p.hello.Versions
	*p = Parser{}
	if clear(alpn); cap(alpn) <= keepOffered {
		p.hello.ALPN = alpn[:0]
	}
	if cap(versions) <= keepOffered {
		p.hello.Versions = versions[:0]
	}
}

// max is how many bytes of the stream the message may take.
func (p *Parser) max() int {
	if p.Max > 0 {
		return min(p.Max, MaxSize)
	}
	return MaxSize
}

func (p *Parser) tooLong() error {
	return fmt.Errorf("a ClientHello that takes more than %d bytes", p.max())
}

// Parse looks at a stream from its begin, of which there may be more with each
// call. Without hello and error it takes more to tell. It does not look again at
// records that it has seen whole, so that many small pieces cost no more than one.
// What it returns does not refer to stream, and belongs to p.
func (p *Parser) Parse(stream []byte) (*Hello, error) {
	for {
		n, err := p.record(stream)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, nil
		}
		p.count(stream[p.at+recordHead : p.at+recordHead+n])
		p.at += recordHead + n
		p.records++
		if p.need > p.max() {
			return nil, fmt.Errorf("a ClientHello of %d bytes; up to %d are taken", p.need, p.max())
		}
		if p.need > 0 && p.have >= p.need {
			if err := p.hello.parse(p.message(stream)[messageHead:p.need]); err != nil {
				return nil, err
			}
			return &p.hello, nil
		}
	}
}

// record is the size of what the next record holds; 0: it is not whole yet.
func (p *Parser) record(stream []byte) (int, error) {
	b := stream[p.at:]
	for i, want := range [2]byte{typeHandshake, majorVersion} {
		if len(b) > i && b[i] != want {
			if p.records == 0 {
				return 0, ErrNotTLS
			}
			return 0, errors.New("another record before the end of the ClientHello")
		}
	}
	if p.at+recordHead >= p.max() {
		return 0, p.tooLong()
	}
	if len(b) < recordHead {
		return 0, nil
	}
	n := int(b[3])<<8 | int(b[4])
	switch {
	case n == 0:
		return 0, errors.New("an empty record")
	case n > maxRecord:
		return 0, fmt.Errorf("a record of %d bytes; TLS knows up to %d", n, maxRecord)
	case p.at+recordHead+n > p.max():
		return 0, p.tooLong()
	case p.records == 0 && len(b) > recordHead && b[recordHead] != typeClientHello:
		return 0, fmt.Errorf("a handshake message of type %d, want a ClientHello", b[recordHead])
	case len(b) < recordHead+n:
		return 0, nil
	}
	return n, nil
}

// count notes a piece of the message.
func (p *Parser) count(piece []byte) {
	if p.have < messageHead {
		copy(p.head[p.have:], piece)
	}
	p.have += len(piece)
	if p.need == 0 && p.have >= messageHead {
		p.need = messageHead + (int(p.head[1])<<16 | int(p.head[2])<<8 | int(p.head[3]))
	}
}

// message is what the records hold, one after the other.
func (p *Parser) message(stream []byte) []byte {
	if p.records == 1 {
		return stream[recordHead:p.at]
	}
	m := make([]byte, 0, p.have)
	for at := 0; at < p.at; {
		n := int(stream[at+3])<<8 | int(stream[at+4])
		m = append(m, stream[at+recordHead:at+recordHead+n]...)
		at += recordHead + n
	}
	return m
}

// UnrecognizedName is the record of a fatal alert unrecognized_name (112, RFC
// 6066 section 9), as a server sends it that has not that name.
func UnrecognizedName() []byte {
	const typeAlert, fatal, unrecognizedName = 21, 2, 112
	return []byte{typeAlert, majorVersion, 3, 0, 2, fatal, unrecognizedName}
}
