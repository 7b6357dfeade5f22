package rig

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// OpenSSLClient is `openssl s_client`, which connects to addr, sends text, and
// ends with the connection. It returns all that was said, by either.
func OpenSSLClient(t testing.TB, addr, text string, args ...string) (said string, err error) {
	t.Helper()
	program := Need(t, "openssl", "openssl")
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append([]string{"s_client", "-connect", addr, "-ign_eof"}, args...)...)
	cmd.Stdin = strings.NewReader(text)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

// OpenSSLServer is `openssl s_server` at addr.
func OpenSSLServer(t testing.TB, addr string, i Identity, args ...string) *Proc {
	t.Helper()
	program := Need(t, "openssl", "openssl")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	p := Start(t, Spec{Program: program, Args: append([]string{"s_server", "-4", "-accept", port, "-cert", i.Cert, "-key", i.Key}, args...)})
	Until(t, Patience, "openssl listens on "+addr, func() bool {
		if !p.Alive() {
			t.Fatalf("openssl has ended: %s", p.Stderr())
		}
		return Listens(nil, addr)
	})
	return p
}
