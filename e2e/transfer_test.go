package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"midspan/e2e/rig"
)

const gib = 1 << 30

// bulk serves one transfer a connection: "up N\n" and N bytes, answered with
// their sum; "down N\n", answered with N bytes; "both N\n" for the two at once.
func bulk(c *net.TCPConn) {
	r := bufio.NewReaderSize(c, 256<<10)
	var what string
	var n int64
	if _, err := fmt.Fscanf(r, "%s %d\n", &what, &n); err != nil {
		return
	}
	var both sync.WaitGroup
	if what != "up" {
		both.Go(func() { _, _ = rig.Send(c, 2, n) }) // the client counts
	}
	if what != "down" {
		sum, err := rig.Receive(r, n)
		both.Wait() // the sum comes after the bytes
		if err == nil {
			fmt.Fprintf(c, "%x\n", sum)
		}
	}
	both.Wait()
}

// wantDown is the sum of a GiB of what bulk sends.
var wantDown = sync.OnceValue(func() rig.Sum {
	sum, err := rig.Send(io.Discard, 2, gib)
	if err != nil {
		panic(err) // io.Discard takes everything
	}
	return sum
})

// transfer moves a GiB and checks every byte that went, in either direction.
func transfer(addr, what string) error {
	const n = gib
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "%s %d\n", what, n); err != nil {
		return err
	}
	var up, down rig.Sum
	var errUp, errDown error
	var both sync.WaitGroup
	if what != "down" {
		both.Go(func() { up, errUp = rig.Send(c, 1, n) })
	}
	r := bufio.NewReaderSize(c, 256<<10)
	if what != "up" {
		down, errDown = rig.Receive(r, n)
	}
	both.Wait()
	if err := errors.Join(errUp, errDown); err != nil {
		return err
	}
	if what != "up" && down != wantDown() {
		return fmt.Errorf("%d bytes down arrived changed", n)
	}
	if what == "down" {
		return nil
	}
	sum, err := r.ReadString('\n')
	if err == nil && strings.TrimSpace(sum) != fmt.Sprintf("%x", up) {
		err = fmt.Errorf("%d bytes up arrived changed", n)
	}
	return err
}

// TestTransfer1GiB moves a GiB each way, then both ways of one connection at
// once.
func TestTransfer1GiB(t *testing.T) {
	s := rig.Serve(t, nil, "127.0.0.1:0", bulk)
	f := rig.NewFile(t)
	addr := rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  bulk: { listen: %q, to: %q }\n", addr, s.Addr)
	rig.Run(t, f)
	wantDown() // not to be timed
	for _, what := range []string{"up", "down", "both"} {
		for _, way := range []struct{ name, addr string }{{"direct", s.Addr}, {"midspan", addr}} {
			begin := time.Now()
			if err := transfer(way.addr, what); err != nil {
				t.Errorf("%s, %s: %v", what, way.name, err)
			}
			took := time.Since(begin)
			t.Logf("%-4s %-7s %6s, %.2f GiB/s each way, checksums included", what, way.name, took.Round(time.Millisecond), 1/took.Seconds())
		}
	}
}
