package rig

import (
	"net"
	"slices"
	"testing"
)

// Redis is a Redis server of its own, which keeps nothing.
type Redis struct {
	*Proc
	Addr string
	t    testing.TB
	spec Spec
}

// StartRedis starts one at addr of a namespace, with more of its options.
func StartRedis(t testing.TB, in *Net, addr string, more ...string) *Redis {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--bind", host, "--port", port, "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", t.TempDir()}
	r := &Redis{Addr: addr, t: t, spec: Spec{
		Program: Need(t, "redis-server", "redis-server"), In: in, Args: slices.Concat(args, more),
	}}
	r.Restart()
	return r
}

// Restart starts a server that has ended.
func (r *Redis) Restart() {
	r.t.Helper()
	r.Proc = Start(r.t, r.spec)
	Until(r.t, Patience, "redis listens on "+r.Addr, func() bool {
		if !r.Alive() {
			r.t.Fatalf("redis-server has ended:\n%s", r.Stdout())
		}
		return Listens(r.spec.In, r.Addr)
	})
}

// Ask runs a command and returns what redis-cli prints of it.
func (r *Redis) Ask(command ...string) string {
	r.t.Helper()
	host, port, _ := net.SplitHostPort(r.Addr)
	out, err := r.spec.In.Run(Need(r.t, "redis-cli", "redis-tools"), append([]string{"-h", host, "-p", port}, command...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}
