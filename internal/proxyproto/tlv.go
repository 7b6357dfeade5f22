package proxyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"strconv"
)

// Types of TLVs. The first ones are of proxy-protocol.txt, section 2.2; those
// from 0xE0 to 0xEF are free for applications, and clouds have taken some.
const (
	ALPN      = 0x01 // the protocol that TLS has agreed on
	Authority = 0x02 // the host name that the client asked for
	crc32c    = 0x03
	noop      = 0x04
	UniqueID  = 0x05 // of the connection, up to 128 bytes

	// Google's Private Service Connect: the connection id, 8 bytes, big endian
	// (cloud.google.com/vpc/docs/configure-private-service-connect-producer).
	gcp = 0xE0
	// Alibaba's PrivateLink: a subtype, then text. 1 is the VPC, 2 the endpoint, 3 its
	// service (alibabacloud.com/help/en/privatelink/obtain-real-client-information).
	alibaba         = 0xE1
	alibabaEndpoint = 0x02
	// AWS: subtype 1, then the id of the VPC endpoint as text
	// (docs.aws.amazon.com, Network Load Balancers, proxy protocol).
	aws         = 0xEA
	awsEndpoint = 0x01
	// Azure's Private Link Service: subtype 1, then the link id, 4 bytes, little
	// endian (learn.microsoft.com/azure/private-link/private-link-service-overview).
	azure       = 0xEE
	azureLinkID = 0x01
)

// All are the TLVs in raw, type and value, in order.
func All(raw []byte) iter.Seq2[byte, []byte] {
	return func(yield func(byte, []byte) bool) {
		for len(raw) >= 3 {
			end := 3 + int(binary.BigEndian.Uint16(raw[1:]))
			if end > len(raw) || !yield(raw[0], raw[3:end]) {
				return
			}
			raw = raw[end:]
		}
	}
}

// TLV is the value of the first TLV of a type, and whether there is one.
func (h *Header) TLV(kind byte) ([]byte, bool) {
	for k, value := range All(h.TLVs) {
		if k == kind {
			return value, true
		}
	}
	return nil, false
}

// checkTLVs tells whether raw is made of whole TLVs.
func checkTLVs(raw []byte) error {
	for kind, value := range All(raw) {
		if kind == crc32c && len(value) != 4 {
			return fmt.Errorf("a checksum of %d bytes", len(value))
		}
		raw = raw[3+len(value):]
	}
	if len(raw) > 0 {
		return errors.New("a TLV is cut off")
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checkSum compares the checksums in tlvs, the end of header b, with b's own:
// with all of them zero, as the sender reckoned it (section 2.2.3).
func checkSum(b, tlvs []byte) error {
	var want [4]byte
	found := false
	var blank []byte
	at := len(b) - len(tlvs)
	for kind, value := range All(tlvs) {
		at += 3
		if kind == crc32c {
			if found {
				return errors.New("two checksums")
			}
			found = true
			copy(want[:], value)
			blank = append(append(append(blank, b[:at]...), 0, 0, 0, 0), b[at+4:]...)
		}
		at += len(value)
	}
	if got := crc32.Checksum(blank, castagnoli); found && got != binary.BigEndian.Uint32(want[:]) {
		return fmt.Errorf("checksum %x, but the header has %08x", want, got)
	}
	return nil
}

// link is who is calling, by the first TLV that tells: the cloud's name and the
// id that its console and its API show. "" where none does.
func link(tlvs []byte) string {
	var room [len("azure:") + 20]byte // the id is the only object that is made
	for kind, v := range All(tlvs) {
		switch {
		case kind == azure && len(v) == 5 && v[0] == azureLinkID:
			return string(strconv.AppendUint(append(room[:0], "azure:"...), uint64(binary.LittleEndian.Uint32(v[1:])), 10))
		case kind == aws && len(v) > 1 && v[0] == awsEndpoint && isID(v[1:]):
			return "aws:" + string(v[1:])
		case kind == gcp && len(v) == 8:
			return string(strconv.AppendUint(append(room[:0], "gcp:"...), binary.BigEndian.Uint64(v), 10))
		case kind == alibaba && len(v) > 1 && v[0] == alibabaEndpoint && isID(v[1:]):
			return "alibaba:" + string(v[1:])
		}
	}
	return ""
}

// isID tells whether b is what the ids of endpoints are made of. They go into
// logs, so nothing else may be in them.
func isID(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return len(b) <= 64
}
