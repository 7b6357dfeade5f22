package main

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// tlvNames are nginx's names of the TLVs.
var tlvNames = map[string]byte{
	"alpn": tlvALPN, "authority": tlvAuthority, "unique_id": 0x05, "netns": 0x30,
	"ssl_version": 0x21, "ssl_cn": 0x22, "ssl_cipher": 0x23, "ssl_sig_alg": 0x24, "ssl_key_alg": 0x25, "ssl": tlvSSL,
}

// proxied are variables of the PROXY header that the client sent.
func (s *session) proxied(name string) (string, bool) {
	rest, is := strings.CutPrefix(name, "proxy_protocol_")
	if !is {
		return "", false
	}
	h := s.header
	if h == nil {
		return "", true
	}
	switch rest {
	case "addr":
		return validText(h.source.IsValid(), addrText(h.source)), true
	case "port":
		return validText(h.source.IsValid(), portText(h.source)), true
	case "server_addr":
		return validText(h.dest.IsValid(), addrText(h.dest)), true
	case "server_port":
		return validText(h.dest.IsValid(), portText(h.dest)), true
	}
	tlv, is := strings.CutPrefix(rest, "tlv_")
	if !is {
		return "", false
	}
	if tlv == "ssl_verify" {
		if v := h.tlvs[tlvSSL]; len(v) >= 5 {
			return strconv.FormatUint(uint64(binary.BigEndian.Uint32([]byte(v[1:]))), 10), true
		}
		return "", true
	}
	if kind, found := tlvNames[tlv]; found {
		return h.tlvs[kind], true
	}
	if hex, is := strings.CutPrefix(tlv, "0x"); is {
		if n, err := strconv.ParseUint(hex, 16, 8); err == nil {
			return h.tlvs[byte(n)], true
		}
	}
	return "", true
}

func validText(valid bool, text string) string {
	if !valid {
		return ""
	}
	return text
}
