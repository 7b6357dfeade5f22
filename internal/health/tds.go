package health

import (
	"encoding/binary"
)

// MS-TDS sections 2.2.3 (packet header) and 2.2.6.5 (PRELOGIN).
const (
	tdsHeader   = 8
	tdsPreLogin = 0x12
	tdsReply    = 0x04
	tdsLast     = 0x01    // status: end of the message
	tdsMost     = 4 << 10 // the size of a packet before login

	tdsVersion    = 0x00
	tdsEncryption = 0x01
	tdsInstance   = 0x02
	tdsThread     = 0x03
	tdsMARS       = 0x04
	tdsTerminator = 0xff

	tdsEncryptOff = 0x00 // "available, but off": what asks least of the server
	tdsEncryptReq = 0x03 // the highest value that an answer may have
)

// tdsQuestion is a pre-login packet with the options that every client sends.
func tdsQuestion() []byte {
	options := []struct {
		token byte
		value []byte
	}{
		{tdsVersion, []byte{1, 0, 0, 0, 0, 0}},
		{tdsEncryption, []byte{tdsEncryptOff}},
		{tdsInstance, []byte{0}}, // the default one
		{tdsThread, []byte{0, 0, 0, 0}},
		{tdsMARS, []byte{0}},
	}
	var head, values []byte
	first := 5*len(options) + 1
	for _, o := range options {
		head = append(head, o.token)
		head = binary.BigEndian.AppendUint16(head, uint16(first+len(values)))
		head = binary.BigEndian.AppendUint16(head, uint16(len(o.value)))
		values = append(values, o.value...)
	}
	head = append(head, tdsTerminator)
	packet := []byte{tdsPreLogin, tdsLast, 0, 0, 0, 0, 1, 0}
	packet = append(append(packet, head...), values...)
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	return packet
}

// askTDS does the part of a SQL Server connection that comes before encryption
// and login: versions are told, and encryption is agreed on.
func askTDS(k *talk) error {
	const want = "a TDS pre-login answer"
	if err := k.say(tdsQuestion()); err != nil {
		return err
	}
	head := make([]byte, tdsHeader)
	if err := k.full(head); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint16(head[2:]))
	if head[0] != tdsReply || size <= tdsHeader || size > tdsMost {
		return unexpected(want, head)
	}
	body := make([]byte, size-tdsHeader)
	if err := k.full(body); err != nil {
		return err
	}
	version, hasVersion := tdsOption(body, tdsVersion)
	encryption, hasEncryption := tdsOption(body, tdsEncryption)
	if !hasVersion || len(version) != 6 || !hasEncryption || len(encryption) != 1 || encryption[0] > tdsEncryptReq {
		return unexpected(want, append(head, body...))
	}
	return nil
}

// tdsOption is the value of an option in the body of a pre-login packet.
func tdsOption(body []byte, token byte) ([]byte, bool) {
	for at := 0; at+5 <= len(body) && body[at] != tdsTerminator; at += 5 {
		from := int(binary.BigEndian.Uint16(body[at+1:]))
		n := int(binary.BigEndian.Uint16(body[at+3:]))
		switch {
		case body[at] != token:
		case from+n > len(body):
			return nil, false
		default:
			return body[from : from+n], true
		}
	}
	return nil, false
}
