// Package host says what this kernel and this user can do for the kernel
// engine, and why not, in words: abilities, sysctls, rules of others that are
// in the way, who holds a port, how full the connection table is.
//
// All of it speaks of the network namespace of the calling thread.
package host

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// CheckNAT tells whether this process can make NAT with nftables in its network
// namespace. It tries: tables are made and removed within one transaction each,
// so that nothing is left, whatever happens. The modules that the kernel loads
// for that stay loaded.
//
// The error joins all obstacles, each with what to do about it. A warning is
// what forwarding works without.
func CheckNAT() (warnings []string, err error) {
	admin, raw, err := capabilities()
	if err != nil {
		return nil, err
	}
	if !raw {
		warnings = append(warnings, "CAP_NET_RAW is missing: connections cannot be reset; run as root, or set AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW in the systemd unit")
	}
	if !admin {
		// Every other answer would be "not permitted".
		return warnings, errors.New("CAP_NET_ADMIN is missing: run as root, or set AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW in the systemd unit")
	}
	return warnings, errors.Join(checkRules(), checkConntrack())
}

// capabilities tells whether CAP_NET_ADMIN and CAP_NET_RAW are effective in the
// calling thread.
func capabilities() (admin, raw bool, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, false, os.NewSyscallError("capget", err)
	}
	has := func(c uint) bool { return data[0].Effective&(1<<c) != 0 }
	return has(unix.CAP_NET_ADMIN), has(unix.CAP_NET_RAW), nil
}

// A trial is a rule that is made and removed again.
type trial struct {
	what   string // the kernel's name of what it needs
	config string // the kernel's build option
	hook   *nftables.ChainHook
	kind   nftables.ChainType
	exprs  []expr.Any
}

func trials() []trial {
	number := []byte{0, 1}
	nat, filter := nftables.ChainTypeNAT, nftables.ChainTypeFilter
	pre, post, forward := nftables.ChainHookPrerouting, nftables.ChainHookPostrouting, nftables.ChainHookForward
	return []trial{
		{"nft_nat", "CONFIG_NFT_NAT", pre, nat, []expr.Any{
			&expr.Immediate{Register: 1, Data: []byte{127, 0, 0, 1}},
			&expr.Immediate{Register: 2, Data: number},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		}},
		{"nft_masq", "CONFIG_NFT_MASQ", post, nat, []expr.Any{&expr.Masq{FullyRandom: true}}},
		{"nft_numgen", "CONFIG_NFT_NUMGEN", pre, nat, []expr.Any{&expr.Numgen{Register: 1, Modulus: 2, Type: unix.NFT_NG_RANDOM}}},
		{"nft_fib", "CONFIG_NFT_FIB_INET", pre, nat, []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}}},
		{"nft_ct", "CONFIG_NFT_CT", forward, filter, []expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}}},
		// The clamp of the MSS: tcp option maxseg size set VALUE.
		{"nft_exthdr", "CONFIG_NF_TABLES", forward, filter, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Immediate{Register: 1, Data: number},
			&expr.Exthdr{SourceRegister: 1, Type: tcpOptionMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
		}},
	}
}

const tcpOptionMSS = 2

// checkRules makes, for each trial, a table with one chain and one rule.
func checkRules() error {
	if err := try(nil); err != nil {
		return explainTable(err)
	}
	var all []error
	for _, t := range trials() {
		if err := try(&t); err != nil {
			all = append(all, fmt.Errorf("the kernel has no %s (%w): load it with \"modprobe %s\", or use a kernel with %s", t.what, err, t.what, t.config))
		}
	}
	return errors.Join(all...)
}

// try makes and removes a table in one transaction: others see either nothing
// or, for the moment of the commit, an empty generation. A name of its own
// keeps it apart from a table in use, since the removal takes the whole table.
func try(t *trial) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: fmt.Sprintf("midspan-trial-%d", unix.Gettid())})
	if t != nil {
		priority := nftables.ChainPriorityNATDest
		if t.hook == nftables.ChainHookPostrouting {
			priority = nftables.ChainPriorityNATSource
		}
		chain := conn.AddChain(&nftables.Chain{Name: "trial", Table: table, Type: t.kind, Hooknum: t.hook, Priority: priority})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: t.exprs})
	}
	conn.DelTable(table)
	return conn.Flush()
}

// explainTable says why not even an empty table can be made.
func explainTable(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("nftables refuses this process (%w): its CAP_NET_ADMIN does not hold for this network namespace, or a seccomp filter is in the way; run it in a namespace of its own, or as root of the host", err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("the kernel has no nf_tables for the inet family (%w): load it with \"modprobe nf_tables\", or use a kernel with CONFIG_NF_TABLES_INET", err)
	}
	return fmt.Errorf("nftables: %w", err)
}

// checkConntrack asks ctnetlink for its statistics: the cheapest question.
func checkConntrack() error {
	const getStats = 5 // IPCTNL_MSG_CT_GET_STATS, linux/netfilter/nfnetlink_conntrack.h
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|getStats, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		return fmt.Errorf("the kernel does not show its connections (%w): load nf_conntrack_netlink with \"modprobe nf_conntrack_netlink\", or use a kernel with CONFIG_NF_CT_NETLINK", err)
	}
	return nil
}
