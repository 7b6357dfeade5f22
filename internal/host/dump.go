package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rule of a chain. Its expressions are those of package expr, or opaque.
type rule struct {
	chain  string
	handle uint64
	exprs  []any
}

// opaque is an expression that is not understood: a condition that may hold,
// and registers that may hold anything.
type opaque struct{ name string }

// dumpRules reads the rules of a chain, in order. The nftables library can do
// it too, but drops expressions that it does not know, so that a condition
// would look like none, and gives up on a chain with "ct original", whose
// direction it takes for 32 bits.
func dumpRules(table *nftables.Table, chain string) ([]*rule, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(table.Family), Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(table.Name)))
	req.AddData(nl.NewRtAttr(unix.NFTA_RULE_CHAIN, nl.ZeroTerminated(chain)))
	messages, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, err
	}
	rules := make([]*rule, 0, len(messages))
	for _, m := range messages {
		if len(m) < nl.SizeofNfgenmsg {
			return nil, errors.New("a message of nftables is too short")
		}
		r := &rule{chain: chain}
		for kind, data := range attributes(m[nl.SizeofNfgenmsg:]) {
			switch kind {
			case unix.NFTA_RULE_HANDLE:
				if len(data) == 8 {
					r.handle = binary.BigEndian.Uint64(data)
				}
			case unix.NFTA_RULE_EXPRESSIONS:
				for _, e := range attributes(data) {
					r.exprs = append(r.exprs, decodeExpr(byte(table.Family), e))
				}
			}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// attributes are those of a netlink message: length, type, data, padding.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.NLA_HDRLEN {
			n := int(binaryutil.NativeEndian.Uint16(b))
			if n < unix.NLA_HDRLEN || n > len(b) {
				return
			}
			kind := binaryutil.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.NLA_HDRLEN:n]) {
				return
			}
			b = b[min(len(b), (n+3)&^3):]
		}
	}
}

// decodeExpr reads one expression; nil is one without a part in what becomes
// of a packet.
func decodeExpr(family byte, b []byte) any {
	var name string
	var data []byte
	for kind, a := range attributes(b) {
		switch kind {
		case unix.NFTA_EXPR_NAME:
			name = string(bytes.TrimRight(a, "\x00"))
		case unix.NFTA_EXPR_DATA:
			data = a
		}
	}
	var e expr.Any
	switch name {
	case "counter", "log", "objref", "last", "flow_offload", "dup":
		return nil
	case "notrack":
		return &expr.Notrack{}
	case "ct":
		return decodeCt(data)
	case "immediate":
		return decodeImmediate(family, data)
	case "meta":
		e = &expr.Meta{}
	case "payload":
		e = &expr.Payload{}
	case "bitwise":
		e = &expr.Bitwise{}
	case "cmp":
		e = &expr.Cmp{}
	case "range":
		e = &expr.Range{}
	case "lookup":
		e = &expr.Lookup{}
	case "match":
		e = &expr.Match{}
	case "target":
		e = &expr.Target{}
	case "nat":
		e = &expr.NAT{}
	case "redir":
		e = &expr.Redir{}
	case "masq":
		e = &expr.Masq{}
	case "reject":
		e = &expr.Reject{}
	}
	if e == nil || expr.Unmarshal(family, data, e) != nil {
		return opaque{name}
	}
	return e
}

// decodeImmediate tells values from verdicts, as the library does inside.
func decodeImmediate(family byte, data []byte) any {
	value := &expr.Immediate{}
	if expr.Unmarshal(family, data, value) != nil {
		return opaque{"immediate"}
	}
	if value.Register != unix.NFT_REG_VERDICT {
		return value
	}
	verdict := &expr.Verdict{}
	if expr.Unmarshal(family, data, verdict) != nil {
		return opaque{"immediate"}
	}
	return verdict
}

func decodeCt(data []byte) any {
	e := &expr.Ct{}
	for kind, a := range attributes(data) {
		switch {
		case kind == unix.NFTA_CT_DIRECTION && len(a) == 1:
			e.Direction = uint32(a[0])
		case len(a) != 4:
			return opaque{"ct"}
		case kind == unix.NFTA_CT_KEY:
			e.Key = expr.CtKey(binary.BigEndian.Uint32(a))
		case kind == unix.NFTA_CT_DREG:
			e.Register = binary.BigEndian.Uint32(a)
		case kind == unix.NFTA_CT_SREG:
			e.Register, e.SourceRegister = binary.BigEndian.Uint32(a), true
		}
	}
	return e
}

// decodeVerdict reads the verdict of a map's element.
func decodeVerdict(b []byte) (v expr.Verdict, ok bool) {
	for kind, a := range attributes(b) {
		switch {
		case kind == unix.NFTA_VERDICT_CODE && len(a) == 4:
			v.Kind, ok = expr.VerdictKind(int32(binary.BigEndian.Uint32(a))), true
		case kind == unix.NFTA_VERDICT_CHAIN:
			v.Chain = string(bytes.TrimRight(a, "\x00"))
		}
	}
	return v, ok
}
