package enginetest

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"time"

	"midspan/internal/engine"
)

// The client that headers speak of, and what it connected to.
var (
	far   = netip.MustParseAddrPort("192.0.2.7:40000")
	front = netip.MustParseAddrPort("198.51.100.9:1433")
)

const v2Signature = "\r\n\r\n\x00\r\nQUIT\n"

// linkID is the TLV by which Azure says who is calling.
func linkID(id uint32) string {
	return "\xee\x00\x05\x01" + string(binary.LittleEndian.AppendUint32(nil, id))
}

// v1 is a PROXY header of version 1.
func v1(src, dst netip.AddrPort) string {
	return fmt.Sprintf("PROXY TCP4 %s %s %d %d\r\n", src.Addr(), dst.Addr(), src.Port(), dst.Port())
}

// v2 is one of version 2, for IPv4.
func v2(src, dst netip.AddrPort, tlvs string) string {
	b := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	return v2Raw(0x21, 0x11, string(b)+tlvs)
}

func v2Raw(command, family byte, rest string) string {
	return v2Signature + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

// say writes bytes that are not of the peer's stream.
func (p *peer) say(s string) error {
	_, err := io.WriteString(p, s)
	return err
}

// hear reads as many bytes as want has, and compares.
func (p *peer) hear(want string) error {
	b := make([]byte, len(want))
	n, err := io.ReadFull(p, b)
	if err != nil || string(b) != want {
		return fmt.Errorf("there came %q, %s; want %q", b[:n], fate(err), want)
	}
	return nil
}

// pause is long enough for what was written to come in by itself.
func pause() { time.Sleep(3 * time.Millisecond) }

// refusal says s and tells what comes back. A write may be the first to find the
// reset, and takes it from the socket: a read then sees an end.
func (p *peer) refusal(s string) string {
	if err := p.say(s); err != nil {
		return "0 bytes, " + fate(err)
	}
	return p.all().String()
}

// wantReset sends s on a new connection, which must be reset without a byte and
// for that reason; the server must not hear of it.
func (r *rig) wantReset(at netip.AddrPort, s string, why engine.Reason) *engine.Record {
	r.Helper()
	before := len(r.log.all())
	c, err := r.connect(at)
	got := "0 bytes, " + fate(err)
	if err == nil {
		got = c.refusal(s)
	}
	if got != "0 bytes, reset" {
		r.Errorf("%.40q: the client sees: %s; want a reset", s, got)
	}
	ours := func(record *engine.Record) bool {
		if c == nil { // it was reset before the connect was reported
			return record.Reason == why
		}
		return record.Client == c.local || record.Peer == c.local
	}
	var end *engine.Record
	r.until("a record of it", func() bool {
		for _, record := range r.log.all()[before:] {
			if ours(record) && !record.End.IsZero() {
				end = record
			}
		}
		return end != nil
	})
	if end.Reason != why || end.Err == "" || end.Connect != 0 {
		r.Errorf("%.40q: the record says %q, %q, connected after %s; want %q", s, end.Reason, end.Err, end.Connect, why)
	}
	return end
}
