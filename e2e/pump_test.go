package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// pumps are connections on which something is under way all the time, to an
// echoing server.
type pumps struct {
	t         *testing.T
	from      *rig.Net // where the clients are; nil: the test's own
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	exchanges atomic.Int64 // on connections that stay
	churned   atomic.Int64 // connections that were made, used and closed
	failed    atomic.Int64
	reset     atomic.Int64 // new connections, see mayReset
	clients   []string     // addresses of connections that stay; for use after start
	mayReset  bool         // new connections may be reset: that is counted and no failure
}

// startPumps keeps n connections to addr busy and, beside them, makes new ones
// over and over.
func startPumps(t *testing.T, addr string, n, churners int, mayReset bool) *pumps {
	return (&pumps{t: t, mayReset: mayReset}).start(addr, n, churners)
}

func (p *pumps) start(addr string, n, churners int) *pumps {
	ctx, cancel := context.WithCancel(context.Background()) // they are stopped with the test at the latest
	p.cancel = cancel
	var connected sync.WaitGroup
	connected.Add(n)
	p.clients = make([]string, n)
	for i := range n {
		p.wg.Go(func() {
			c, err := p.from.DialTimeout("tcp", addr, 20*time.Second)
			if err == nil {
				p.clients[i] = c.LocalAddr().String()
			}
			connected.Done()
			if err != nil {
				p.fail("connect: %v", err)
				return
			}
			defer c.Close()
			for j := uint64(0); ctx.Err() == nil; j++ {
				// Sizes around and above what is moved at once.
				if err := exchange(c, uint64(i)<<32|j, 1+int(j*7919%100_000)); err != nil {
					p.fail("connection %d, exchange %d: %v", i, j, err)
					return
				}
				p.exchanges.Add(1)
			}
		})
	}
	for i := range churners {
		p.wg.Go(func() {
			for j := uint64(0); ctx.Err() == nil; j++ {
				err := onceFrom(p.from, addr, uint64(1000+i)<<32|j)
				switch {
				case err == nil:
					p.churned.Add(1)
				case p.mayReset && errors.Is(err, syscall.ECONNRESET):
					p.reset.Add(1)
				default:
					p.fail("new connection: %v", err)
					return
				}
			}
		})
	}
	connected.Wait()
	p.t.Cleanup(p.stop)
	return p
}

func (p *pumps) fail(format string, args ...any) {
	if p.failed.Add(1) <= 10 {
		p.t.Errorf(format, args...)
	}
}

// wait waits until that much more was done, so that it was surely done in the
// state of now.
func (p *pumps) wait(exchanges, churned int64) {
	p.t.Helper()
	exchanges += p.exchanges.Load()
	churned += p.churned.Load()
	rig.Until(p.t, rig.Patience, "connections have moved on", func() bool {
		return p.exchanges.Load() >= exchanges && p.churned.Load() >= churned || p.failed.Load() > 0
	})
}

func (p *pumps) stop() {
	p.cancel()
	p.wg.Wait()
}

func exchange(c net.Conn, seed uint64, n int) error {
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	return rig.Exchange(c, seed, n)
}

// once connects, exchanges and closes.
func once(addr string, seed uint64) error { return onceFrom(nil, addr, seed) }

func onceFrom(from *rig.Net, addr string, seed uint64) error {
	c, err := from.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := exchange(c, seed, 1000); err != nil {
		return fmt.Errorf("after the connect: %w", err)
	}
	return nil
}
