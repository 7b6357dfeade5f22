package proxyproto

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	codec "github.com/pires/go-proxyproto"
)

// FuzzStream holds the reader to these rules: how the stream is cut does not
// matter; a header is found as soon as it is there, and no earlier; what the
// codec takes is taken here, with the same end and addresses; and what was read
// and is written again reads the same.
func FuzzStream(f *testing.F) {
	for _, s := range []string{
		"", "P", "PROXY TCP4 10.1.0.4 10.2.0.4 50000 1433\r\nGET /", "PROXY UNKNOWN\r\n", "PROXY x\r\n", "PUT / HTTP/1.1\r\n\r\n",
		v2(localV2, unspec, "") + "x", v2(localV2, tcp4, azureTLV), v2(proxyV2, tcp4, v4Addresses+azureTLV) + "x", v2(proxyV2, tcp4, v4Addresses)[:20],
		v2(proxyV2, unspec, azureTLV), v2(proxyV2, 0x13, v4Addresses), summed(tcp4, v4Addresses, azureTLV), signatureV2,
		v2(proxyV2, tcp4, v4Addresses+tlv(aws, "\x01vpce-1")+tlv(gcp, "12345678")+tlv(alibaba, "\x02ep")),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		n, skip, err := Scan(stream)
		for i := range stream {
			m, s, e := Scan(stream[:i])
			if e != nil && (err == nil || (e.Error() != err.Error() && n > 0)) {
				t.Fatalf("%d bytes: %v; all: %d, %v", i, e, n, err)
			}
			if m > 0 && (m != n || s != skip || i < n) {
				t.Fatalf("%d bytes: %d, %d; all: %d, %d", i, m, s, n, skip)
			}
		}
		r := bufio.NewReaderSize(bytes.NewReader(stream), len(stream)+16)
		theirs, codecErr := codec.Read(r)
		if n == 0 {
			if codecErr == nil && theirs != nil {
				t.Fatalf("the codec takes it; here: %v", err)
			}
			return
		}
		if n > len(stream) || n > MaxSize || err != nil {
			t.Fatal(n, skip, err)
		}
		h, err := Parse(stream[:n])
		if err != nil {
			if errors.Is(err, ErrNone) {
				t.Fatal("found and not found")
			}
			return
		}
		if codecErr == nil {
			rest, _ := io.ReadAll(r)
			src, dst := addresses(theirs)
			if !h.Local && (src != h.Source || dst != h.Destination) || !bytes.Equal(rest, stream[n+skip:]) {
				t.Fatalf("%+v; the codec: %+v and %q", h, theirs, rest)
			}
		}
		again(t, h)
	})
}

// FuzzTCP: the codec is the judge of what is read without it.
func FuzzTCP(f *testing.F) {
	v6 := string(client6.Addr().AsSlice()) + string(server6.Addr().AsSlice()) + "\xc3\x50\x05\x99"
	mapped := strings.Repeat("\x00", 10) + "\xff\xff\x0a\x01\x00\x04"
	for _, s := range []string{
		v2(proxyV2, tcp4, v4Addresses), v2(proxyV2, tcp4, v4Addresses+azureTLV), v2(proxyV2, tcp6, v6+azureTLV), v2(proxyV2, tcp6, mapped+mapped+"\x00\x00\x00\x01"),
		v2(proxyV2, tcp4, v4Addresses[:11]), v2(proxyV2, tcp6, v6[:35]), v2(proxyV2, tcp4, v4Addresses) + "x", v2(proxyV2, tcp4, v4Addresses+"x")[:28],
		v2(proxyV2, 0x12, v4Addresses), v2(localV2, tcp4, v4Addresses), v2(proxyV2, unspec, v4Addresses),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < v2Fixed || len(b) > MaxSize || !bytes.HasPrefix(b, []byte(signatureV2)) || b[len(signatureV2)] != proxyV2 {
			return
		}
		var h Header
		family := b[len(signatureV2)+1]
		theirs, err := decode(b)
		if taken := h.tcp(b); taken != (err == nil && (family == tcp4 || family == tcp6)) {
			t.Fatalf("taken: %v; the codec: %+v, %v", taken, theirs, err)
		} else if !taken {
			return
		}
		src, dst := addresses(theirs)
		if h.Source != src || h.Destination != dst {
			t.Fatalf("%v, %v; the codec: %v, %v", h.Source, h.Destination, src, dst)
		}
		h, err = Parse(b)
		if err != nil {
			return // of the TLVs, which the codec does not look at
		}
		tlvs, err := theirs.TLVs()
		for kind, value := range All(h.TLVs) {
			if kind == noop {
				value = nil // as the codec has it
			}
			if len(tlvs) == 0 || byte(tlvs[0].Type) != kind || !bytes.Equal(tlvs[0].Value, value) {
				t.Fatalf("%x %q; the codec: %v, %v", kind, value, tlvs, err)
			}
			tlvs = tlvs[1:]
		}
		if len(tlvs) > 0 || err != nil || h.Source != src || h.Destination != dst {
			t.Fatalf("%+v; the codec has %v besides, %v", h, tlvs, err)
		}
	})
}

// TestCost: a header of version 2 costs the text of its id, and writing one nothing.
func TestCost(t *testing.T) {
	in := []byte(v2(proxyV2, tcp4, v4Addresses+azureTLV))
	room := make([]byte, 0, 256)
	for name, c := range map[string]struct {
		most float64
		do   func()
	}{
		"Scan":   {0, func() { _, _, _ = Scan(in) }},
		"none":   {0, func() { _, _, _ = Scan([]byte("GET")) }},
		"Parse":  {1, func() { _, _ = Parse(in) }},
		"v1":     {0, func() { Append(room, 1, client, server) }},
		"v2":     {0, func() { Append(room, 2, client, server, in[28:]) }},
		"v2, v6": {0, func() { Append(room, 2, client6, server6) }},
	} {
		if got := testing.AllocsPerRun(100, c.do); got > c.most {
			t.Errorf("%s: %.0f objects, want %.0f", name, got, c.most)
		}
	}
}

func again(t *testing.T, h Header) {
	t.Helper()
	if h.Source == (netip.AddrPort{}) {
		return // it is written as LOCAL, which says nothing
	}
	b := Append(nil, h.Version, h.Source, h.Destination, h.TLVs)
	n, _, err := Scan(b)
	if n != len(b) || err != nil {
		t.Fatalf("%q: %d, %v", b, n, err)
	}
	back, err := Parse(b)
	if err != nil || back.Source != h.Source || back.Destination != h.Destination || back.Link != h.Link {
		t.Fatalf("%+v became %+v, %v", h, back, err)
	}
}
