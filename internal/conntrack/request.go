package conntrack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// native is the order of netlink's own headers.
var native = binary.NativeEndian

// request is a message to the kernel in the making.
type request []byte

// ask begins a message; b is reused.
func ask(b []byte, kind, flags uint16, seq uint32, family uint8) request {
	b = append(b[:0], 0, 0, 0, 0) // the length: finish
	b = native.AppendUint16(b, kind)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = native.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0)                         // to the kernel
	return append(b, family, unix.NFNETLINK_V0, 0, 0) // struct nfgenmsg
}

func (b request) finish() request {
	native.PutUint32(b, uint32(len(b)))
	return b
}

func (b request) value(kind uint16, v ...byte) request {
	b = native.AppendUint16(b, uint16(unix.SizeofNlAttr+len(v)))
	b = native.AppendUint16(b, kind)
	b = append(b, v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (b request) uint16(kind, v uint16) request {
	return b.value(kind, byte(v>>8), byte(v))
}

func (b request) uint32(kind uint16, v uint32) request {
	return b.value(kind, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// nest puts what add appends into one attribute.
func (b request) nest(kind uint16, add func(request) request) request {
	start := len(b)
	b = add(b.value(kind | unix.NLA_F_NESTED))
	native.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

func (b request) tuple(kind uint16, t Tuple) request {
	return b.nest(kind, func(b request) request {
		b = b.nest(ctaTupleIP, func(b request) request {
			src, dst := uint16(ctaIPv6Src), uint16(ctaIPv6Dst)
			if t.Src.Addr().Is4() {
				src, dst = ctaIPv4Src, ctaIPv4Dst
			}
			return b.value(src, t.Src.Addr().AsSlice()...).value(dst, t.Dst.Addr().AsSlice()...)
		})
		return b.nest(ctaTupleProto, func(b request) request {
			return b.value(ctaProtoNum, t.Proto).uint16(ctaProtoSrcPort, t.Src.Port()).uint16(ctaProtoDstPort, t.Dst.Port())
		})
	})
}

func family(ip netip.Addr) uint8 {
	if ip.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
