package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Sysctls are set in every namespace, and told in the results.
var Sysctls = []struct{ Name, Value string }{
	{"net.ipv4.ip_local_port_range", "1024 65535"},
	{"net.ipv4.tcp_tw_reuse", "1"},
	{"net.ipv4.tcp_max_syn_backlog", "65535"},
	{"net.core.somaxconn", "65535"},
	{"net.ipv4.tcp_congestion_control", "reno"},
}

// tune sets them in the calling thread's namespace. The kernel may forbid the
// choice of a congestion control; then it is what CongestionControl says.
func tune() error {
	for _, s := range Sysctls {
		if err := sysctl(s.Name, s.Value); err != nil && !(errors.Is(err, fs.ErrPermission) && s.Value == "reno") {
			return err
		}
	}
	return nil
}

func sysctl(name, value string) error {
	if err := os.WriteFile(path(name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

func path(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }

// CongestionControl is what TCP uses in the lab.
func (l *Lab) CongestionControl() (string, error) {
	var text []byte
	err := l.Forwarder.Do(func() (err error) {
		text, err = os.ReadFile(path("net.ipv4.tcp_congestion_control"))
		return err
	})
	return strings.TrimSpace(string(text)), err
}
