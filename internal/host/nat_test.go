package host

import (
	"errors"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const userNamespaceOnly = syscall.CLONE_NEWUSER

func TestCheckNAT(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	warnings, err := CheckNAT()
	if err != nil || len(warnings) > 0 {
		t.Errorf("root in its own namespace: warnings %q, error %v", warnings, err)
	}
	if left := run(t, "nft list ruleset"); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestCheckNATKeepsRules: the trial touches nothing of others.
func TestCheckNATKeepsRules(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	run(t, "iptables -t nat -A PREROUTING -p tcp --dport 1434 -j DNAT --to 10.0.0.9:1433")
	run(t, "nft add table inet midspan")
	before := run(t, "nft -a list ruleset")
	if _, err := CheckNAT(); err != nil {
		t.Error(err)
	}
	if after := run(t, "nft -a list ruleset"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// without calls CheckNAT on a thread that has given up capabilities. The thread
// ends with its goroutine.
func without(t *testing.T, caps ...uint) (warnings []string, err error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		failed := unix.Capget(&header, &data[0])
		for _, c := range caps {
			data[0].Effective &^= 1 << c
		}
		if failed = errors.Join(failed, unix.Capset(&header, &data[0])); failed == nil {
			warnings, err = CheckNAT()
		}
		done <- failed
	}()
	if failed := <-done; failed != nil {
		t.Fatal(failed)
	}
	return warnings, err
}

func TestCheckNATWithoutCapabilities(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	warnings, err := without(t, unix.CAP_NET_ADMIN)
	if err == nil || !strings.Contains(err.Error(), "AmbientCapabilities=CAP_NET_ADMIN") || strings.Contains(err.Error(), "\n") || len(warnings) > 0 {
		t.Errorf("without CAP_NET_ADMIN: warnings %q, error %v", warnings, err)
	}
	warnings, err = without(t, unix.CAP_NET_RAW)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "cannot be reset") {
		t.Errorf("without CAP_NET_RAW: warnings %q, error %v", warnings, err)
	}
}

// TestCheckNATOfOtherNamespace: root of a user namespace, in a network
// namespace that belongs to another one.
func TestCheckNATOfOtherNamespace(t *testing.T) {
	if !reexec(t, userNamespaceOnly) {
		return
	}
	_, err := CheckNAT()
	if err == nil || !strings.Contains(err.Error(), "does not hold for this network namespace") {
		t.Errorf("error %v", err)
	}
}

// TestTrialThatFails leaves nothing either. The object it speaks of does not
// exist, for which the kernel has the error of a missing module.
func TestTrialThatFails(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	err := try(&trial{hook: nftables.ChainHookForward, kind: nftables.ChainTypeFilter, exprs: []expr.Any{&expr.Objref{Type: 1, Name: "none"}}})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("error %v, want %v", err, unix.ENOENT)
	}
	if left := run(t, "nft list ruleset"); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}
