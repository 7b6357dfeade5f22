package proxyproto

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	codec "github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

var (
	client  = netip.MustParseAddrPort("10.1.0.4:50000")
	server  = netip.MustParseAddrPort("10.2.0.4:1433")
	client6 = netip.MustParseAddrPort("[2001:db8::1]:50000")
	server6 = netip.MustParseAddrPort("[2001:db8::2]:1433")
)

const (
	v4Addresses = "\x0a\x01\x00\x04\x0a\x02\x00\x04\xc3\x50\x05\x99"
	azureTLV    = "\xee\x00\x05\x01\xc1\x45\x00\x21" // 553665985
)

// v2 is a header of version 2.
func v2(command, family byte, rest string) string {
	return signatureV2 + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

func tlv(kind byte, value string) string {
	return string([]byte{kind, byte(len(value) >> 8), byte(len(value))}) + value
}

// summed is a header whose checksum, over all of it, is right.
func summed(family byte, addresses, tlvs string) string {
	h := []byte(v2(proxyV2, family, addresses+tlvs+tlv(crc32c, "\x00\x00\x00\x00")))
	binary.BigEndian.PutUint32(h[len(h)-4:], crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
	return string(h)
}

func TestParse(t *testing.T) {
	v4 := Header{Version: 2, Source: client, Destination: server}
	with := func(h Header, tlvs, link string) Header {
		h.TLVs, h.Link = []byte(tlvs), link
		return h
	}
	for name, tt := range map[string]struct {
		in   string
		want Header
	}{
		"v1":                    {"PROXY TCP4 10.1.0.4 10.2.0.4 50000 1433\r\n", Header{Version: 1, Source: client, Destination: server}},
		"v1, IPv6":              {"PROXY TCP6 2001:db8::1 2001:db8::2 50000 1433\r\n", Header{Version: 1, Source: client6, Destination: server6}},
		"v1, mapped":            {"PROXY TCP6 ::ffff:10.1.0.4 ::ffff:10.2.0.4 50000 1433\r\n", Header{Version: 1, Source: client, Destination: server}},
		"v1, unknown":           {"PROXY UNKNOWN\r\n", Header{Version: 1, Local: true}},
		"v1, unknown, the most": {"PROXY UNKNOWN" + strings.Repeat(" fff", 23) + "\r\n", Header{Version: 1, Local: true}},
		"v2":                    {v2(proxyV2, tcp4, v4Addresses), with(v4, "", "")},
		"v2, IPv6": {
			v2(proxyV2, tcp6, string(client6.Addr().AsSlice())+string(server6.Addr().AsSlice())+"\xc3\x50\x05\x99"),
			Header{Version: 2, Source: client6, Destination: server6, TLVs: []byte{}},
		},
		"v2, UDP":        {v2(proxyV2, 0x12, v4Addresses), Header{Version: 2, TLVs: []byte{}}},
		"v2, Unix":       {v2(proxyV2, unix, strings.Repeat("\x00", 216)+azureTLV), Header{Version: 2, TLVs: []byte(azureTLV), Link: "azure:553665985"}},
		"v2, no family":  {v2(proxyV2, unspec, azureTLV), Header{Version: 2, TLVs: []byte(azureTLV), Link: "azure:553665985"}},
		"v2 LOCAL":       {v2(localV2, unspec, ""), Header{Version: 2, Local: true}},
		"v2 LOCAL, IPv4": {v2(localV2, tcp4, ""), Header{Version: 2, Local: true}},
		"Azure":          {v2(proxyV2, tcp4, v4Addresses+azureTLV), with(v4, azureTLV, "azure:553665985")},
		"AWS": {
			v2(proxyV2, tcp4, v4Addresses+tlv(aws, "\x01vpce-08d2bf15fac5001c9")),
			with(v4, tlv(aws, "\x01vpce-08d2bf15fac5001c9"), "aws:vpce-08d2bf15fac5001c9"),
		},
		"Google": {
			v2(proxyV2, tcp4, v4Addresses+tlv(gcp, "\xff\xff\xff\xff\xc0\xa8\x64\x02")),
			with(v4, tlv(gcp, "\xff\xff\xff\xff\xc0\xa8\x64\x02"), "gcp:18446744072646845442"),
		},
		"Alibaba": {
			v2(proxyV2, tcp4, v4Addresses+tlv(alibaba, "\x01vpc-1")+tlv(alibaba, "\x02ep-2ze1")),
			with(v4, tlv(alibaba, "\x01vpc-1")+tlv(alibaba, "\x02ep-2ze1"), "alibaba:ep-2ze1"),
		},
		"ids that are none": {
			v2(proxyV2, tcp4, v4Addresses+tlv(azure, "\x02\x01\x02\x03\x04")+tlv(aws, "\x01x\ny")+tlv(gcp, "1")+tlv(alibaba, "\x03e")),
			with(v4, tlv(azure, "\x02\x01\x02\x03\x04")+tlv(aws, "\x01x\ny")+tlv(gcp, "1")+tlv(alibaba, "\x03e"), ""),
		},
		"unknown ones": {v2(proxyV2, tcp4, v4Addresses+tlv(0xF7, "abc")+azureTLV), with(v4, tlv(0xF7, "abc")+azureTLV, "azure:553665985")},
		"the longest":  {v2(proxyV2, tcp4, v4Addresses+tlv(noop, strings.Repeat("x", maxV2Rest-15))), with(v4, tlv(noop, strings.Repeat("x", maxV2Rest-15)), "")},
	} {
		t.Run(name, func(t *testing.T) {
			n, skip, err := Scan([]byte(tt.in + "data"))
			if n+skip != len(tt.in) || err != nil {
				t.Fatalf("Scan: %d, %d, %v; want %d", n, skip, err, len(tt.in))
			}
			got, err := Parse([]byte(tt.in)[:n])
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// TestAzureVector: the header that research of Azure's Private Link gives byte
// by byte.
func TestAzureVector(t *testing.T) {
	b, err := hex.DecodeString("0d0a0d0a000d0a515549540a21110014" + "0a010004" + "0a020004c3500599ee000501c1450021")
	if err != nil {
		t.Fatal(err)
	}
	h, err := Parse(b)
	if err != nil || h.Link != "azure:553665985" || h.Source != client || h.Destination != server {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestTLV(t *testing.T) {
	h, err := Parse([]byte(v2(proxyV2, tcp4, v4Addresses+tlv(ALPN, "h2")+tlv(Authority, "a.example")+tlv(UniqueID, "")+tlv(ALPN, "x"))))
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[byte]string{ALPN: "h2", Authority: "a.example", UniqueID: ""} {
		if got, ok := h.TLV(kind); !ok || string(got) != want {
			t.Errorf("%#x: %q, %v", kind, got, ok)
		}
	}
	if _, ok := h.TLV(0x30); ok {
		t.Error("found what is not there")
	}
}

// TestClouds: this package and the codec's own helpers read the same ids.
func TestClouds(t *testing.T) {
	raw := azureTLV + tlv(aws, "\x01vpce-1") + tlv(gcp, "12345678")
	tlvs, err := codec.SplitTLVs([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	id, _ := tlvparse.FindAzurePrivateEndpointLinkID(tlvs)
	psc, _ := tlvparse.ExtractPSCConnectionID(tlvs)
	if id != 553665985 || tlvparse.FindAWSVPCEndpointID(tlvs) != "vpce-1" || psc != 0x3132333435363738 {
		t.Error(id, psc)
	}
	if got := link([]byte(tlv(gcp, "12345678"))); got != "gcp:3544952156018063160" {
		t.Error(got)
	}
}

func TestWrong(t *testing.T) {
	broken := []byte(summed(tcp4, v4Addresses, ""))
	broken[17]++
	for name, tt := range map[string]struct{ in, why string }{
		"v1 without an end":      {"PROXY TCP4 " + strings.Repeat("1", 96), "without an end"},
		"v1 without CR":          {"PROXY TCP4 10.1.0.4 10.2.0.4 50000 1433\n", "must end with"},
		"v1, no addresses":       {"PROXY TCP4\r\n", ""},
		"v1, port too high":      {"PROXY TCP4 10.1.0.4 10.2.0.4 50000 65536\r\n", "port"},
		"v1, another family":     {"PROXY TCP4 ::1 ::1 1 2\r\n", "address"},
		"v1, UDP":                {"PROXY UDP4 10.1.0.4 10.2.0.4 1 2\r\n", ""},
		"v2, version 1":          {v2(0x11, tcp4, v4Addresses), "0x11"},
		"v2, command 2":          {v2(0x22, tcp4, v4Addresses), "0x22"},
		"v2, transport 3":        {v2(proxyV2, 0x13, v4Addresses), "address family"},
		"v2, family 4":           {v2(proxyV2, 0x41, v4Addresses), "address family"},
		"v2, half an address":    {v2(proxyV2, tcp4, v4Addresses[:11]), "length"},
		"v2, half a TLV":         {v2(proxyV2, tcp4, v4Addresses+azureTLV[:7]), "cut off"},
		"v2, a byte of a TLV":    {v2(proxyV2, tcp4, v4Addresses+"\xee"), "cut off"},
		"v2, too long":           {v2(proxyV2, tcp4, v4Addresses+strings.Repeat("\x00", maxV2Rest)), "up to 4112"},
		"v2, checksum":           {string(broken), "checksum"},
		"v2, checksum of 3":      {v2(proxyV2, tcp4, v4Addresses+tlv(crc32c, "123")), "checksum of 3"},
		"v2, two checksums":      {v2(proxyV2, tcp4, v4Addresses+tlv(crc32c, "1234")+tlv(crc32c, "1234")), "two checksums"},
		"v2, no family, garbage": {v2(proxyV2, unspec, "x"), "cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			n, _, err := Scan([]byte(tt.in))
			if err == nil && n > 0 {
				_, err = Parse([]byte(tt.in)[:n])
			}
			if err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("%d, %v; want an error about %q", n, err, tt.why)
			}
		})
	}
}

func TestChecksum(t *testing.T) {
	for _, tlvs := range []string{"", azureTLV, tlv(noop, "xx")} {
		if _, err := Parse([]byte(summed(tcp4, v4Addresses, tlvs))); err != nil {
			t.Errorf("%q: %v", tlvs, err)
		}
	}
	// In the middle of the TLVs.
	h := []byte(v2(proxyV2, tcp4, v4Addresses+tlv(crc32c, "\x00\x00\x00\x00")+azureTLV))
	binary.BigEndian.PutUint32(h[31:], crc32.Checksum(h, castagnoli))
	if _, err := Parse(h); err != nil {
		t.Error(err)
	}
}

func TestScanNone(t *testing.T) {
	for _, s := range []string{"G", "PR ", "PROXY\t", "PROXYTCP4", "\r\n\r\n\x00\r\nQUIS", "\x16\x03\x01", "proxy "} {
		if n, skip, err := Scan([]byte(s)); n != 0 || skip != 0 || !errors.Is(err, ErrNone) {
			t.Errorf("%q: %d, %d, %v", s, n, skip, err)
		}
	}
}

func TestStarts(t *testing.T) {
	for s, want := range map[string]bool{
		"": false, "P": false, "PROXY": false, "PROXY TCP4 1": true, "PROXY TCP6 ": true, "PROXY UNKNOWN\r\n": true, "PROXY it": false,
		signatureV2: true, signatureV2[:11]: false, "\r\n": false, "POST / HTTP/1.1\r\n": false,
	} {
		if Starts([]byte(s)) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func TestAppend(t *testing.T) {
	none := netip.AddrPort{}
	for name, tt := range map[string]struct {
		version  int
		src, dst netip.AddrPort
		tlvs     []string
		want     string
	}{
		"v1":             {1, client, server, []string{azureTLV}, "PROXY TCP4 10.1.0.4 10.2.0.4 50000 1433\r\n"},
		"v1, IPv6":       {1, client6, server6, nil, "PROXY TCP6 2001:db8::1 2001:db8::2 50000 1433\r\n"},
		"v1, both":       {1, client6, server, nil, "PROXY TCP6 2001:db8::1 ::ffff:10.2.0.4 50000 1433\r\n"},
		"v1, unknown":    {1, none, server, nil, "PROXY UNKNOWN\r\n"},
		"v2":             {2, client, server, nil, v2(proxyV2, tcp4, v4Addresses)},
		"v2, TLVs":       {2, client, server, []string{azureTLV}, v2(proxyV2, tcp4, v4Addresses+azureTLV)},
		"v2, of two":     {2, client, server, []string{azureTLV + tlv(noop, "x"), "", tlv(ALPN, "h2")}, v2(proxyV2, tcp4, v4Addresses+azureTLV+tlv(ALPN, "h2"))},
		"v2, checksums":  {2, client, server, []string{tlv(crc32c, "1234"), tlv(crc32c, "4321") + azureTLV}, summed(tcp4, v4Addresses, azureTLV)},
		"v2, unknown":    {2, client, none, []string{azureTLV}, v2(localV2, unspec, azureTLV)},
		"v2, IPv6, IPv4": {2, client6, server, nil, v2(proxyV2, tcp6, string(client6.Addr().AsSlice())+"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x02\x00\x04\xc3\x50\x05\x99")},
		"v2, no room":    {2, client, server, []string{tlv(0xF0, strings.Repeat("x", 65000)), tlv(0xF1, strings.Repeat("x", 600)), azureTLV}, v2(proxyV2, tcp4, v4Addresses+tlv(0xF0, strings.Repeat("x", 65000))+azureTLV)},
	} {
		t.Run(name, func(t *testing.T) {
			var raws [][]byte
			for _, s := range tt.tlvs {
				raws = append(raws, []byte(s))
			}
			got := Append([]byte("before"), tt.version, tt.src, tt.dst, raws...)
			if string(got) != "before"+tt.want {
				t.Errorf("got  %q\nwant %q", got, "before"+tt.want)
			}
		})
	}
}

// TestAppendAsCodec: the codec writes the same.
func TestAppendAsCodec(t *testing.T) {
	for _, version := range []byte{1, 2} {
		for _, a := range [][2]netip.AddrPort{{client, server}, {client6, server6}} {
			h := codec.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(a[0]), net.TCPAddrFromAddrPort(a[1]))
			want, err := h.Format()
			if err != nil {
				t.Fatal(err)
			}
			if got := Append(nil, int(version), a[0], a[1]); !bytes.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		}
	}
}
