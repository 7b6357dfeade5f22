package conntrack

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// encode is what the kernel would send for f: a struct nfgenmsg and attributes.
func encode(f *Flow, zone uint16) []byte {
	u64 := func(b request, kind uint16, v uint64) request {
		return b.value(kind, binary.BigEndian.AppendUint64(nil, v)...)
	}
	counters := func(c Counter) func(request) request {
		return func(b request) request {
			return u64(u64(b, ctaCountersPackets, c.Packets), ctaCountersBytes, c.Bytes)
		}
	}
	flags := func(fin bool) byte {
		if fin {
			return tcpFlagCloseInit | 0x23
		}
		return 0x23
	}
	b := request{family(f.Orig.Src.Addr()), 0, 0, 0}
	b = b.tuple(ctaTupleOrig, f.Orig).tuple(ctaTupleReply, f.Reply)
	b = b.uint32(ctaID, f.ID).uint32(ctaMark, f.Mark).uint32(ctaStatus, f.Status)
	b = b.uint32(ctaTimeout, uint32(f.Timeout/time.Second))
	b = b.value(5|unix.NLA_F_NESTED, 1, 2, 3) // CTA_HELP, which is of no interest
	if zone != 0 {
		b = b.uint16(ctaZone|unix.NLA_F_NET_BYTEORDER, zone)
	}
	if f.State != 0 {
		b = b.nest(ctaProtoinfo, func(b request) request {
			return b.nest(ctaProtoinfoTCP, func(b request) request {
				return b.value(ctaProtoinfoTCPState, byte(f.State)).
					value(ctaProtoinfoTCPFlagsOriginal, flags(f.ClientFin), 0).
					value(ctaProtoinfoTCPFlagsReply, flags(f.ServerFin), 0)
			})
		})
	}
	b = b.nest(ctaCountersOrig, counters(f.Up)).nest(ctaCountersReply, counters(f.Down))
	if !f.Start.IsZero() {
		b = b.nest(ctaTimestamp, func(b request) request {
			b = u64(b, ctaTimestampStart, uint64(f.Start.UnixNano()))
			if !f.Stop.IsZero() {
				b = u64(b, ctaTimestampStop, uint64(f.Stop.UnixNano()))
			}
			return b
		})
	}
	return b
}

func random(r *rand.Rand) *Flow {
	addr := func() netip.AddrPort {
		b := binary.BigEndian.AppendUint32(nil, r.Uint32())
		ip, _ := netip.AddrFromSlice(b)
		return netip.AddrPortFrom(ip, uint16(r.Uint32()))
	}
	if r.IntN(2) == 0 {
		v4 := addr
		addr = func() netip.AddrPort {
			b := [16]byte{0xfd, byte(r.Uint32()), 15: byte(r.Uint32())}
			return netip.AddrPortFrom(netip.AddrFrom16(b), v4().Port())
		}
	}
	f := &Flow{
		ID: r.Uint32(), Mark: r.Uint32(), Status: r.Uint32(),
		Orig:    Tuple{addr(), addr(), unix.IPPROTO_TCP},
		Reply:   Tuple{addr(), addr(), unix.IPPROTO_TCP},
		Timeout: time.Duration(r.Uint32()) * time.Second,
		Up:      Counter{r.Uint64(), r.Uint64()}, Down: Counter{r.Uint64(), r.Uint64()},
	}
	if r.IntN(4) > 0 {
		f.State = State(1 + r.IntN(9))
		f.ClientFin, f.ServerFin = r.IntN(2) == 0, r.IntN(2) == 0
	}
	if r.IntN(3) > 0 {
		f.Start = time.Unix(0, r.Int64())
		if r.IntN(2) == 0 {
			f.Stop = time.Unix(0, r.Int64())
		}
	}
	return f
}

func TestDecodeIsTheInverseOfEncode(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		want, got := random(r), Flow{ID: 1, ClientFin: true, Stop: time.Now()}
		known, err := got.decode(encode(want, 0))
		if err != nil || !known || got != *want {
			t.Fatalf("%v %v\n got %+v\nwant %+v", known, err, got, *want)
		}
	}
}

// Every shorter message is an error or a flow with less in it, never a panic or
// a wrong address.
func TestDecodeTruncated(t *testing.T) {
	want := random(rand.New(rand.NewPCG(3, 4)))
	whole := encode(want, 0)
	for n := range whole {
		var got Flow
		if known, err := got.decode(whole[:n:n]); err == nil && (!known || got.Orig != want.Orig || got.Reply != want.Reply) {
			t.Errorf("%d bytes: %+v", n, got)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	f := random(rand.New(rand.NewPCG(5, 6)))
	good := encode(f, 0)
	v4 := netip.MustParseAddrPort("1.2.3.4:5")
	mixed := *f
	mixed.Orig = Tuple{v4, v4, 6}
	for name, b := range map[string][]byte{
		"nothing":            nil,
		"no tuple":           good[:4],
		"one tuple":          request(good[:4:4]).tuple(ctaTupleOrig, f.Orig),
		"wrong size of mark": request(good[:len(good):len(good)]).uint16(ctaMark, 1),
		"long address": request(good[:len(good):len(good)]).nest(ctaTupleOrig, func(b request) request {
			return b.nest(ctaTupleIP, func(b request) request { return b.value(ctaIPv4Src, 1, 2, 3, 4, 5) })
		}),
		"tail": append(good[:len(good):len(good)], 0, 0),
	} {
		if _, err := new(Flow).decode(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if known, err := new(Flow).decode(encode(f, 7)); known || err != nil {
		t.Errorf("zone 7: %v, %v", known, err)
	}
}

func TestStateString(t *testing.T) {
	for s, want := range map[State]string{0: "NONE", Established: "ESTABLISHED", Close: "CLOSE", SynSent2: "SYN_SENT2", 77: "STATE_77"} {
		if s.String() != want {
			t.Errorf("%d: %s, want %s", s, s, want)
		}
	}
}

func TestSegmentChecksum(t *testing.T) {
	for _, a := range []string{"10.0.0.1:80", "[fd00::1]:80"} {
		at := netip.MustParseAddrPort(a)
		b := segment(Tuple{Src: at, Dst: at, Proto: unix.IPPROTO_TCP}, 0x01020304, 0xfffefdfc)
		tcp := b[len(b)-tcpHeader:]
		if sum := checksum(tcpHeader+unix.IPPROTO_TCP, at.Addr().AsSlice(), at.Addr().AsSlice(), tcp); sum != 0 {
			t.Errorf("%s: the sum with the checksum is %#x, want 0", a, sum)
		}
	}
}

// FuzzDecode: whatever comes is an error, or a flow that encodes to what decodes
// to the same.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 4 {
		b := encode(random(r), uint16(r.IntN(2)))
		m := append(make([]byte, unix.SizeofNlMsghdr), b...)
		native.PutUint32(m, uint32(len(m)))
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			m, rest, err := cut(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
			_ = m.errno()
			var one, two Flow
			known, err := one.decode(m.body)
			if err != nil || !known {
				continue
			}
			if one.State == 0 {
				one.ClientFin, one.ServerFin = false, false // encode has no flags without a state
			}
			if one.Start.IsZero() {
				one.Stop = time.Time{}
			}
			if _, err := two.decode(encode(&one, 0)); err != nil || one != two {
				t.Fatalf("%v\n%+v\n%+v", err, one, two)
			}
		}
	})
}
