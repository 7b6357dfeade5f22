package conntrack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loopback marks the flows to ports 9001 and 9002, and sends those to port 80
// on, as a NAT engine would.
const loopback = `
table inet t {
	chain out {
		type nat hook output priority -100
		tcp dport 9001 ct mark set 0x101
		tcp dport 9002 ct mark set 0x202
		ip daddr 127.0.0.2 tcp dport 80 ct mark set 0x303 dnat ip to 127.0.0.1:9003
		ip6 daddr ::1 tcp dport 80 ct mark set 0x303 dnat ip6 to [::1]:9003
	}
}`

func addrOf(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func dump(t *testing.T, c *Conn, mark, mask uint32) (flows []Flow) {
	t.Helper()
	if err := c.Dump(mark, mask, func(f *Flow) { flows = append(flows, *f) }); err != nil {
		t.Fatal(err)
	}
	return flows
}

func TestDumpAndGet(t *testing.T) {
	if !alone(t) {
		return
	}
	nft(t, loopback)
	c := open(t)
	began := time.Now()
	l1, l2, l3, l6 := listen(t, "127.0.0.1:9001"), listen(t, "127.0.0.1:9002"), listen(t, "127.0.0.1:9003"), listen(t, "[::1]:9003")
	c1, s1 := pair(t, "127.0.0.1:9001", l1)
	pair(t, "127.0.0.1:9002", l2)
	c3, _ := pair(t, "127.0.0.2:80", l3)
	pair(t, "[::1]:80", l6)
	if _, err := io.WriteString(c1, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s1, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}

	for _, tt := range []struct {
		mark, mask uint32
		want       int
	}{{0x101, 0xffffffff, 1}, {0x100, 0x100, 3}, {2, 2, 3}, {0, 0, 4}, {0x303, 0x303, 2}, {0x400, 0x400, 0}} {
		if got := dump(t, c, tt.mark, tt.mask); len(got) != tt.want {
			t.Errorf("%#x/%#x: %d flows, want %d: %+v", tt.mark, tt.mask, len(got), tt.want, got)
		}
	}

	f := dump(t, c, 0x101, ^uint32(0))[0]
	want := Tuple{addrOf(c1.LocalAddr()), addrOf(c1.RemoteAddr()), unix.IPPROTO_TCP}
	if f.Orig != want || f.Reply != (Tuple{want.Dst, want.Src, want.Proto}) {
		t.Errorf("tuples of %+v, want %v", f, want)
	}
	if f.State != Established || f.Status&(SeenReply|Assured|Confirmed) != SeenReply|Assured|Confirmed || f.Status&DstNAT != 0 {
		t.Errorf("state of %+v", f)
	}
	if f.Up.Packets < 3 || f.Up.Bytes < 3*40+5 || f.Down.Packets < 1 {
		t.Errorf("counters of %+v", f)
	}
	if f.Start.Before(began.Add(-time.Second)) || f.Start.After(time.Now().Add(time.Second)) || !f.Stop.IsZero() {
		t.Errorf("times of %+v", f)
	}
	if f.Timeout < time.Minute || f.ID == 0 || f.ClientFin || f.ServerFin {
		t.Errorf("%+v", f)
	}

	nat, err := c.Get(Tuple{addrOf(c3.LocalAddr()), addrOf(c3.RemoteAddr()), unix.IPPROTO_TCP})
	if err != nil {
		t.Fatal(err)
	}
	if nat.Orig.Dst.String() != "127.0.0.2:80" || nat.Reply.Src.String() != "127.0.0.1:9003" || nat.Status&DstNAT == 0 || nat.Mark != 0x303 {
		t.Errorf("with NAT: %+v", nat)
	}
	if _, err := c.Get(nat.Reply); !errors.Is(err, ErrNotFound) {
		t.Errorf("by the reply's tuple: %v", err)
	}
	for _, six := range dump(t, c, 0x303, ^uint32(0)) {
		if got, err := c.Get(six.Orig); err != nil || got.ID != six.ID {
			t.Errorf("get %v: %+v, %v", six.Orig, got, err)
		}
		if a := six.Orig.Dst.Addr(); a.Is4In6() {
			t.Errorf("address %v", a)
		}
	}
	if n, limit, err := c.Count(); err != nil || n < 4 || limit < 1000 {
		t.Errorf("count: %d of %d, %v", n, limit, err)
	}
}

func TestDelete(t *testing.T) {
	if !alone(t) {
		return
	}
	nft(t, loopback)
	c := open(t)
	for _, address := range []string{"127.0.0.1:9001", "[::1]:9001"} {
		l := listen(t, address)
		pair(t, address, l)
		pair(t, address, l)
		flows := dump(t, c, 0x101, ^uint32(0))
		if len(flows) != 2 {
			t.Fatalf("%+v", flows)
		}
		old := flows[0]
		old.ID++
		if err := c.Delete(&old); !errors.Is(err, ErrNotFound) {
			t.Errorf("delete with the ID of another: %v", err)
		}
		// From within a dump, as a cut of many does it.
		err := c.Dump(0x101, ^uint32(0), func(f *Flow) {
			if f.ID != flows[0].ID {
				return
			}
			if err := c.Delete(f); err != nil {
				t.Errorf("delete: %v", err)
			}
			if _, err := c.Get(f.Orig); !errors.Is(err, ErrNotFound) {
				t.Errorf("get what is deleted: %v", err)
			}
		})
		if err != nil {
			t.Error(err)
		}
		if err := c.Delete(&flows[0]); !errors.Is(err, ErrNotFound) {
			t.Errorf("delete twice: %v", err)
		}
		if err := c.Delete(&Flow{Orig: flows[1].Orig}); err != nil {
			t.Errorf("delete without an ID: %v", err)
		}
		if left := dump(t, c, 0x101, ^uint32(0)); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
	}
}

func TestNonsense(t *testing.T) {
	if !alone(t) {
		return
	}
	c := open(t)
	if _, err := c.Get(Tuple{}); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("get nothing: %v", err)
	}
	if err := c.Delete(&Flow{}); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("delete nothing: %v", err)
	}
	if err := c.Reset(&Flow{}); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("reset nothing: %v", err)
	}
	if _, err := Listen(0, 0, 1<<20, 9); err == nil {
		t.Error("listen to event 9: no error")
	}
}

func TestClosed(t *testing.T) {
	if !alone(t) {
		return
	}
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	lo := netip.MustParseAddrPort("127.0.0.1:1")
	tuple := Tuple{lo, lo, unix.IPPROTO_TCP}
	_, errGet := c.Get(tuple)
	_, _, errCount := c.Count()
	for name, err := range map[string]error{
		"dump": c.Dump(0, 0, func(*Flow) {}), "get": errGet, "count": errCount,
		"delete": c.Delete(&Flow{Orig: tuple}), "reset": c.Reset(&Flow{Orig: tuple, Reply: tuple}),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
