package host

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// iptablesTable is the program and its table for one of nftables that
// iptables-nft keeps; "", "" for others.
func iptablesTable(t *nftables.Table) (program, table string) {
	switch t.Name {
	case "nat", "filter", "raw", "mangle", "security":
	default:
		return "", ""
	}
	switch t.Family {
	case nftables.TableFamilyIPv4:
		return "iptables", t.Name
	case nftables.TableFamilyIPv6:
		return "ip6tables", t.Name
	}
	return "", ""
}

// removal is the command that deletes a rule: of iptables, which the host of an
// old setup has, if all of the rule is understood, or else of nft.
func removal(table *nftables.Table, rule *rule) string {
	if program, name := iptablesTable(table); name != "" {
		if spec, ok := iptablesSpec(rule.exprs); ok {
			return fmt.Sprintf("%s -t %s -D %s %s", program, name, rule.chain, strings.Join(spec, " "))
		}
	}
	return fmt.Sprintf("nft delete rule %s %s %s handle %d", familyName(table.Family), table.Name, rule.chain, rule.handle)
}

// iptablesSpec writes a rule of iptables-nft as iptables takes it: interfaces,
// protocol, destination port, and a target that is known.
func iptablesSpec(exprs []any) (spec []string, ok bool) {
	var last any // what the register holds
	target := false
	for _, e := range exprs {
		var words []string
		ok := true
		switch e := e.(type) {
		case nil:
		case *expr.Meta, *expr.Payload:
			last = e
		case *expr.Cmp:
			words, ok = specCompare(last, e)
		case *expr.Range:
			ok = isPort(last) && e.Op == expr.CmpOpEq && len(e.FromData) == 2 && len(e.ToData) == 2
			if ok {
				words = []string{"--dport", fmt.Sprintf("%d:%d", binary.BigEndian.Uint16(e.FromData), binary.BigEndian.Uint16(e.ToData))}
			}
		case *expr.Match:
			words, ok = specMatch(e)
		case *expr.Target:
			target = true
			words, ok = specTarget(e)
		default:
			ok = false
		}
		if !ok {
			return nil, false
		}
		spec = append(spec, words...)
	}
	return spec, target
}

func isPort(e any) bool {
	p, ok := e.(*expr.Payload)
	return ok && p.Base == expr.PayloadBaseTransportHeader && p.Offset == 2 && p.Len == 2
}

func specCompare(field any, c *expr.Cmp) ([]string, bool) {
	var words []string
	if c.Op == expr.CmpOpNeq {
		words = []string{"!"}
	} else if c.Op != expr.CmpOpEq {
		return nil, false
	}
	if isPort(field) && len(c.Data) == 2 {
		return append(words, "--dport", fmt.Sprint(binary.BigEndian.Uint16(c.Data))), true
	}
	m, ok := field.(*expr.Meta)
	if !ok {
		return nil, false
	}
	switch m.Key {
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		option := "-i"
		if m.Key == expr.MetaKeyOIFNAME {
			option = "-o"
		}
		name := string(bytes.TrimRight(c.Data, "\x00"))
		if len(name) == len(c.Data) {
			name += "+" // without its end: all names that begin so
		}
		return append(words, option, name), true
	case expr.MetaKeyL4PROTO:
		switch {
		case bytes.Equal(c.Data, []byte{unix.IPPROTO_TCP}):
			return append(words, "-p", "tcp"), true
		case bytes.Equal(c.Data, []byte{unix.IPPROTO_UDP}):
			return append(words, "-p", "udp"), true
		}
	}
	return nil, false
}

// specMatch writes the matches tcp and udp that have a destination port only.
func specMatch(e *expr.Match) ([]string, bool) {
	var src, dst [2]uint16
	switch info := e.Info.(type) {
	case *xt.Tcp:
		if info.InvFlags != 0 || info.FlagsMask != 0 || info.Option != 0 {
			return nil, false
		}
		src, dst = info.SrcPorts, info.DstPorts
	case *xt.Udp:
		if info.InvFlags != 0 {
			return nil, false
		}
		src, dst = info.SrcPorts, info.DstPorts
	default:
		return nil, false
	}
	if all := [2]uint16{0, 0xffff}; src != all {
		return nil, false
	}
	ports := fmt.Sprint(dst[0])
	if dst[1] != dst[0] {
		ports += fmt.Sprintf(":%d", dst[1])
	}
	return []string{"-m", e.Name, "--dport", ports}, true
}

func specTarget(e *expr.Target) ([]string, bool) {
	_, to := targetXT(e)
	switch e.Name {
	case "DNAT":
		return []string{"-j", "DNAT", "--to-destination", to}, to != "" && natFlagsXT(e.Info)&^(xt.NatRangeMapIPs|xt.NatRangeProtoSpecified) == 0
	case "MASQUERADE":
		flags := natFlagsXT(e.Info)
		words := []string{"-j", "MASQUERADE"}
		if flags&xt.NatRangeProtoRandomFully != 0 {
			words = append(words, "--random-fully")
		}
		return words, flags&^xt.NatRangeProtoRandomFully == 0
	}
	return nil, false
}

func natFlagsXT(info xt.InfoAny) xt.NatRangeFlags {
	switch r := info.(type) {
	case *xt.NatIPv4MultiRangeCompat:
		if len(*r) == 1 {
			return xt.NatRangeFlags((*r)[0].Flags)
		}
	case *xt.NatRange:
		return xt.NatRangeFlags(r.Flags)
	case *xt.NatRange2:
		return xt.NatRangeFlags(r.Flags)
	}
	return ^xt.NatRangeFlags(0)
}
