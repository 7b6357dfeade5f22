package health

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"midspan/internal/plan"
)

// TestShortage: a test that this machine has no descriptor, memory or port for
// says nothing about the server.
func TestShortage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Options{Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
		}})
		defer m.Close()
		target := Target{
			Addr:  netip.MustParseAddrPort("10.0.0.1:80"),
			Check: plan.Check{Kind: plan.CheckTCP, Every: plan.Duration(time.Second), Timeout: plan.Duration(time.Second), Rise: 1, Fall: 1},
		}
		m.Watch([]Target{target})
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := m.State()[0]; !s.Up || s.Checked || s.Failed != 0 {
			t.Errorf("%+v; want it up, and no test counted", s)
		}
	})
}
