package rig

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// Curl runs curl, silent but for errors, for a minute at the most, and returns
// what it got and its exit code.
func Curl(t testing.TB, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.Command(Need(t, "curl", "curl"), append([]string{"-sS", "--max-time", "60", "--noproxy", "*"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("curl: %v", err)
	}
	if err != nil {
		t.Logf("curl %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), cmd.ProcessState.ExitCode()
}

// Resolve is for curl's --resolve: host, with the port of addr, is at addr.
func Resolve(host, addr string) string {
	ip, port, _ := strings.Cut(addr, ":")
	return fmt.Sprintf("%s:%s:%s", host, port, ip)
}
