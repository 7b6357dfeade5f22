package admin

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pires/go-proxyproto"

	ours "midspan/internal/proxyproto"
)

// FuzzProxyHeader holds the skipper to three rules: how the stream is cut does
// not matter; without an error, what is left is the stream without one header;
// and what the codec takes whole is taken here, with the same rest, unless its
// TLVs are wrong, which the codec does not look at.
func FuzzProxyHeader(f *testing.F) {
	for _, s := range []string{
		"", "P", "PROXY", getRoot, v1Text, v1Text + getRoot, "PROXY UNKNOWN\r\n" + getRoot, "PROXY x\r\n", "PUT / HTTP/1.1\r\n\r\n",
		v2Local + getRoot, v2Proxied + getRoot, v2Proxied[:20], v2Start, "\r\n\r\nGET", v2With(0x20, 0x11, v2Proxied[16:], 40) + "x",
		v2With(0x21, 0x11, v2Proxied[16:], 300) + "x", v2With(0x21, 0x00, "", 7) + "x", v2With(0x20, 0x00, "", 5000) + "x",
		v2Start + "\x21\x13\x00\x0c" + v2Proxied[16:] + "x",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		rest, err := skipped(bytes.NewReader(stream))
		slowRest, slowErr := skipped(iotest.OneByteReader(bytes.NewReader(stream)))
		if (err == nil) != (slowErr == nil) || !bytes.Equal(rest, slowRest) {
			t.Fatalf("at once: %q, %v; byte by byte: %q, %v", rest, err, slowRest, slowErr)
		}
		if err == nil && !bytes.HasSuffix(stream, rest) {
			t.Fatalf("%q is no end of the stream", rest)
		}
		if header := strings.HasPrefix(string(stream), "PROXY ") || strings.HasPrefix(string(stream), v2Start); err == nil && header != (len(rest) < len(stream)) {
			t.Fatalf("a header: %v; %d bytes of %d are left", header, len(rest), len(stream))
		}
		r := bufio.NewReaderSize(bytes.NewReader(stream), len(stream)+16)
		if h, codecErr := proxyproto.Read(r); codecErr == nil && h != nil {
			want, _ := io.ReadAll(r)
			if err != nil && mayBeWrong(h) {
				return
			}
			if err != nil || !bytes.Equal(rest, want) {
				t.Fatalf("codec: %q; here: %q, %v", want, rest, err)
			}
		}
	})
}

// mayBeWrong tells whether h has TLVs that can be refused: they are cut off, or there
// is a checksum among them.
func mayBeWrong(h *proxyproto.Header) bool {
	tlvs, err := h.TLVs()
	return err != nil || slices.ContainsFunc(tlvs, func(t proxyproto.TLV) bool { return t.Type == proxyproto.PP2_TYPE_CRC32C })
}

func skipped(stream io.Reader) (rest []byte, err error) {
	r := bufio.NewReaderSize(stream, ours.MaxSize)
	if err := skipProxyHeader(r); err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
