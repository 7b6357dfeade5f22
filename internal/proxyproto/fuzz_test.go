package proxyproto

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
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
