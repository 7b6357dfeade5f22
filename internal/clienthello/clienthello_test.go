package clienthello

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// real is the first message of a client of Go's.
func real(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	c.InsecureSkipVerify = true
	go func() {
		_ = tls.Client(near, c).Handshake() // it gets no answer
		near.Close()
	}()
	defer far.Close()
	_ = far.SetDeadline(time.Now().Add(5 * time.Second))
	head := make([]byte, recordHead)
	if _, err := io.ReadFull(far, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(far, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// inRecords cuts what is in the one record of a hello into records of n bytes.
func inRecords(hello []byte, n int) []byte {
	var out []byte
	for piece := range slices.Chunk(hello[recordHead:], n) {
		out = append(out, typeHandshake, majorVersion, 1, byte(len(piece)>>8), byte(len(piece)))
		out = append(out, piece...)
	}
	return out
}

// message is a record with a ClientHello of such extensions.
func message(extensions string) []byte {
	body := "\x03\x03" + strings.Repeat("r", 32) + vec(1, "") + vec(2, "\x13\x01") + vec(1, "\x00") + vec(2, extensions)
	return record("\x01" + vec(3, body))
}

func record(content string) []byte { return []byte("\x16\x03\x01" + vec(2, content)) }

func vec(n int, s string) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(len(s)))
	return string(b[4-n:]) + s
}

func ext(kind int, data string) string {
	return string([]byte{byte(kind >> 8), byte(kind)}) + vec(2, data)
}

func sni(name string) string { return ext(extServerName, vec(2, "\x00"+vec(2, name))) }

func TestReal(t *testing.T) {
	for name, tt := range map[string]struct {
		config *tls.Config
		want   Hello
	}{
		"TLS 1.3":  {&tls.Config{ServerName: "a.Example.com", NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS13}, Hello{ServerName: "a.example.com", ALPN: []string{"h2", "http/1.1"}, Versions: []uint16{0x0304}}},
		"TLS 1.2":  {&tls.Config{ServerName: "b", MaxVersion: tls.VersionTLS12}, Hello{ServerName: "b", Versions: []uint16{0x0303}}},
		"both":     {&tls.Config{ServerName: "b"}, Hello{ServerName: "b", Versions: []uint16{0x0304, 0x0303}}},
		"no name":  {&tls.Config{MinVersion: tls.VersionTLS13}, Hello{Versions: []uint16{0x0304}}},
		"long one": {&tls.Config{ServerName: "c", NextProtos: []string{strings.Repeat("p", 255), strings.Repeat("q", 255)}, MinVersion: tls.VersionTLS13}, Hello{ServerName: "c", ALPN: []string{strings.Repeat("p", 255), strings.Repeat("q", 255)}, Versions: []uint16{0x0304}}},
	} {
		t.Run(name, func(t *testing.T) {
			whole := real(t, tt.config)
			for _, n := range []int{1, 2, 5, 100, len(whole)} {
				var p Parser
				got, err := p.Parse(append(inRecords(whole, n), "rest"...))
				if err != nil || got == nil || !reflect.DeepEqual(*got, tt.want) {
					t.Fatalf("in records of %d: %+v, %v", n, got, err)
				}
			}
		})
	}
}

// TestPieces: at no cut does a hello come too early, and with the last byte it
// is there.
func TestPieces(t *testing.T) {
	whole := real(t, &tls.Config{ServerName: "a.example.com"})
	for _, stream := range [][]byte{whole, inRecords(whole, 1), inRecords(whole, 7)} {
		var p Parser
		for i := range stream {
			if h, err := p.Parse(stream[:i]); h != nil || err != nil {
				t.Fatalf("%d of %d bytes: %v, %v", i, len(stream), h, err)
			}
		}
		if h, err := p.Parse(stream); err != nil || h == nil || h.ServerName != "a.example.com" {
			t.Fatal(h, err)
		}
	}
}

// TestNoSquare: a hello of 64 KiB that comes byte by byte in records of one byte
// is looked at a small number of times.
func TestNoSquare(t *testing.T) {
	stream := inRecords(message(sni("a")+ext(21, strings.Repeat("\x00", 10_500))), 1)
	if len(stream) > MaxSize || len(stream) < MaxSize*9/10 {
		t.Fatal(len(stream))
	}
	begin := time.Now()
	var p Parser
	for i := range stream {
		if _, err := p.Parse(stream[:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took > time.Second { // it takes 2 ms; the square of it, minutes
		t.Error(took)
	}
}

func TestHello(t *testing.T) {
	v13 := ext(extVersions, "\x04\x7a\x7a\x03\x04")
	for name, tt := range map[string]struct {
		in   []byte
		want Hello
	}{
		"name":              {message(sni("A.example.COM") + v13), Hello{ServerName: "a.example.com", Versions: []uint16{0x0304}}},
		"dot at the end":    {message(sni("a.example.com.")), Hello{ServerName: "a.example.com", Versions: []uint16{0x0303}}},
		"underscore":        {message(sni("_a.b")), Hello{ServerName: "_a.b", Versions: []uint16{0x0303}}},
		"digits":            {message(sni("10.0.0.1")), Hello{ServerName: "10.0.0.1", Versions: []uint16{0x0303}}},
		"GREASE":            {message(ext(0x3a3a, "x") + ext(extALPN, vec(2, vec(1, "\x2a\x2a")+vec(1, "h2"))) + ext(0xfafa, "")), Hello{ALPN: []string{"h2"}, Versions: []uint16{0x0303}}},
		"another kind":      {message(ext(extServerName, vec(2, "\x07"+vec(2, "x")+"\x00"+vec(2, "a")))), Hello{ServerName: "a", Versions: []uint16{0x0303}}},
		"encrypted":         {message(sni("outer.example") + ext(extECH, "\x00\x00\x01")), Hello{ServerName: "outer.example", Encrypted: true, Versions: []uint16{0x0303}}},
		"no extensions":     {message(""), Hello{Versions: []uint16{0x0303}}},
		"none at all":       {record("\x01" + vec(3, "\x03\x01"+strings.Repeat("r", 32)+vec(1, "")+vec(2, "\x13\x01")+vec(1, "\x00"))), Hello{Versions: []uint16{0x0301}}},
		"more in a record":  {append(record("\x01"+vec(3, "\x03\x01"+strings.Repeat("r", 32)+vec(1, "")+vec(2, "\x13\x01")+vec(1, "\x00"))+"\x0b\x00"), 1), Hello{Versions: []uint16{0x0301}}},
		"the longest label": {message(sni(strings.Repeat("a", 63) + ".b")), Hello{ServerName: strings.Repeat("a", 63) + ".b", Versions: []uint16{0x0303}}},
	} {
		t.Run(name, func(t *testing.T) {
			var p Parser
			if got, err := p.Parse(tt.in); err != nil || got == nil || !reflect.DeepEqual(*got, tt.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

// TestAgain: a parser that has served one stream knows nothing of it in the next,
// and takes memory for nothing but the name.
func TestAgain(t *testing.T) {
	rich := real(t, &tls.Config{ServerName: "a.example.com", NextProtos: []string{"h2", "http/1.1"}})
	var p Parser
	if _, err := p.Parse(append(message(sni("b") + ext(extECH, "\x00\x00\x01"))[:20:20], 0xff)); err != nil {
		t.Fatal(err)
	}
	for _, stream := range [][]byte{rich, message(""), []byte("GET"), inRecords(rich, 7)} {
		p.Reset()
		got, err := p.Parse(stream)
		var fresh Parser
		want, wantErr := fresh.Parse(stream)
		if !errors.Is(err, wantErr) || (want == nil) != (got == nil) {
			t.Fatalf("got %+v, %v; want %+v, %v", got, err, want, wantErr)
		}
		if want != nil && (got.ServerName != want.ServerName || got.Encrypted != want.Encrypted || !slices.Equal(got.ALPN, want.ALPN) || !slices.Equal(got.Versions, want.Versions)) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		p.Reset()
		_, _ = p.Parse(rich)
	}); n > 1 {
		t.Errorf("%.0f objects for a ClientHello, want the name alone", n)
	}
}

func TestWrong(t *testing.T) {
	good := string(message(sni("a")))
	for name, tt := range map[string]struct {
		in  string
		why string
	}{
		"empty record":      {"\x16\x03\x01\x00\x00", "empty"},
		"record too long":   {"\x16\x03\x01\x40\x01", "16385"},
		"ServerHello":       {string(record("\x02" + vec(3, "x"))), "type 2"},
		"message too long":  {string(record("\x01\x01\x00\x00x")), "up to 65536"},
		"an alert inside":   {string(inRecords([]byte(good), 20)[:25]) + "\x15\x03\x01\x00\x02\x02\x28", "another record"},
		"another version":   {string(inRecords([]byte(good), 20)[:25]) + "\x16\x02", "another record"},
		"empty inside":      {string(inRecords([]byte(good), 20)[:25]) + "\x16\x03\x01\x00\x00", "empty"},
		"cut":               {string(record("\x01" + vec(3, "\x03\x03"))), "do not fill"},
		"session id":        {string(record("\x01" + vec(3, "\x03\x03"+strings.Repeat("r", 32)+vec(1, strings.Repeat("s", 33))+vec(2, "\x13\x01")+vec(1, "\x00")))), "session id of 33"},
		"no ciphers":        {string(record("\x01" + vec(3, "\x03\x03"+strings.Repeat("r", 32)+vec(1, "")+vec(2, "")+vec(1, "\x00")))), "cipher"},
		"more at the end":   {string(record("\x01" + vec(3, "\x03\x03"+strings.Repeat("r", 32)+vec(1, "")+vec(2, "\x13\x01")+vec(1, "\x00")+vec(2, "")+"x"))), "do not fill"},
		"extension cut":     {string(message("\x00\x00\x00\x09x")), "do not fill"},
		"name twice":        {string(message(sni("a") + sni("b"))), "extension 0 twice"},
		"two names":         {string(message(ext(extServerName, vec(2, "\x00"+vec(2, "a")+"\x00"+vec(2, "b"))))), "two server names"},
		"no name":           {string(message(ext(extServerName, vec(2, "")))), "fill"},
		"empty name":        {string(message(sni(""))), "of 0 bytes"},
		"a dot":             {string(message(sni("."))), "of 1 bytes"},
		"empty label":       {string(message(sni("a..b"))), "label of 0"},
		"long label":        {string(message(sni(strings.Repeat("a", 64)))), "label of 64"},
		"long name":         {string(message(sni(strings.Repeat("a.", 128)))), "a server name of"},
		"NUL":               {string(message(sni("a\x00b"))), `"a\x00b"`},
		"a star":            {string(message(sni("*.a"))), "0x2a"},
		"UTF-8":             {string(message(sni("ä"))), "0xc3"},
		"a line end":        {string(message(sni("a\nb"))), `"a\nb"`},
		"name cut":          {string(message(ext(extServerName, vec(2, "\x00\x00\x09a")))), "cut off"},
		"name, rest":        {string(message(ext(extServerName, vec(2, "\x00"+vec(2, "a"))+"x"))), "fill"},
		"ALPN empty":        {string(message(ext(extALPN, vec(2, "")))), "fill"},
		"ALPN without name": {string(message(ext(extALPN, vec(2, vec(1, ""))))), "without a name"},
		"ALPN cut":          {string(message(ext(extALPN, vec(2, "\x05h2")))), "protocol"},
		"versions odd":      {string(message(ext(extVersions, vec(1, "\x03")))), "versions"},
	} {
		t.Run(name, func(t *testing.T) {
			var p Parser
			h, err := p.Parse([]byte(tt.in))
			if err == nil || errors.Is(err, ErrNotTLS) || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("%+v, %v; want an error about %q", h, err, tt.why)
			}
		})
	}
}

func TestTooLong(t *testing.T) {
	stream := inRecords(message(ext(21, strings.Repeat("x", 12_000))), 1)
	var p Parser
	if _, err := p.Parse(stream); err == nil || !strings.Contains(err.Error(), "more than 65536") {
		t.Error(err)
	}
}

// TestMax: a bound of one's own holds for the bytes of the stream, also of a
// message that comes whole.
func TestMax(t *testing.T) {
	stream := message(sni("a.test"))
	for max, want := range map[int]bool{len(stream): true, len(stream) - 1: false, 0: true, MaxSize + 1: true} {
		p := Parser{Max: max}
		if h, err := p.Parse(stream); (h != nil) != want || (err == nil) != want {
			t.Errorf("%d of %d bytes: %v, %v", max, len(stream), h, err)
		}
	}
}

// TestBound: no stream of MaxSize bytes leaves the parser waiting for more.
func TestBound(t *testing.T) {
	whole := message(ext(21, strings.Repeat("x", 40_000)))
	body := whole[recordHead:]
	for last := range 12 { // where the last record before the bound ends
		cut := MaxSize - 4*(recordHead+maxRecord) + maxRecord - last // of what fits in front
		var stream []byte
		for size := cut; len(stream) < MaxSize; size = maxRecord {
			n := min(size, maxRecord)
			stream = append(stream, typeHandshake, majorVersion, 1, byte(n>>8), byte(n))
			stream = append(stream, body[:n]...)
			if len(stream) == n+recordHead {
				stream[6], stream[7], stream[8] = 0, 0xff, 0xf0
			}
		}
		var p Parser
		if h, err := p.Parse(stream[:MaxSize]); h != nil || err == nil {
			t.Errorf("%d: %v, %v", last, h, err)
		}
	}
}

func TestNotTLS(t *testing.T) {
	for _, s := range []string{"GET / HTTP/1.1\r\n", "\x16\x02", "\x15\x03\x01", "\x80\x2e\x01\x03\x01", "\x00\x00\x00\x08\x04\xd2\x16\x2f"} {
		var p Parser
		if h, err := p.Parse([]byte(s)); h != nil || !errors.Is(err, ErrNotTLS) {
			t.Errorf("%q: %v, %v", s, h, err)
		}
	}
	for _, s := range []string{"", "\x16", "\x16\x03"} {
		var p Parser
		if h, err := p.Parse([]byte(s)); h != nil || err != nil {
			t.Errorf("%q: %v, %v", s, h, err)
		}
	}
}

// TestAlert: a client of Go's understands the alert.
func TestAlert(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_, _ = far.Read(make([]byte, 4096)) // the pipe hands over what there is
		_, _ = far.Write(UnrecognizedName())
	}()
	err := tls.Client(near, &tls.Config{ServerName: "a"}).Handshake()
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Error(err)
	}
}

// FuzzParse: how a stream is cut changes nothing; what is found is a name.
func FuzzParse(f *testing.F) {
	f.Add(message(sni("a.example.com")+ext(extALPN, vec(2, vec(1, "h2")))+ext(extVersions, "\x02\x03\x04")), uint8(3))
	f.Add(inRecords(message(sni("a")), 3), uint8(1))
	f.Add(real(f, &tls.Config{ServerName: "a.example.com"}), uint8(200))
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x00\x00"), uint8(1))
	f.Add([]byte("GET / HTTP/1.1"), uint8(2))
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		var p Parser
		want, wantErr := p.Parse(stream)
		var q Parser
		for end := 0; ; end = min(len(stream), end+1+int(step)) {
			got, err := q.Parse(stream[:end])
			if got == nil && err == nil && end < len(stream) {
				continue
			}
			if (err == nil) != (wantErr == nil) || !reflect.DeepEqual(got, want) {
				t.Fatalf("cut: %+v, %v; whole: %+v, %v", got, err, want, wantErr)
			}
			break
		}
		if want == nil {
			return
		}
		if name, err := hostname([]byte(want.ServerName)); want.ServerName != "" && (err != nil || name != want.ServerName) {
			t.Fatalf("%q is no name: %v", want.ServerName, err)
		}
		for _, size := range []int{1, 50} {
			again := inRecords(bytes.Join([][]byte{stream[:recordHead], p.message(stream)[:p.need]}, nil), size)
			var r Parser
			if got, err := r.Parse(again); len(again) <= MaxSize && (err != nil || !reflect.DeepEqual(got, want)) {
				t.Fatalf("in records of %d: %+v, %v; want %+v", size, got, err, want)
			}
		}
	})
}
