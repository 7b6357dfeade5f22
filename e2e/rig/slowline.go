package rig

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SlowLine joins two namespaces by a line on which every packet takes delay: a
// TUN device at each end, and this process between them. It needs Isolate.
func SlowLine(t testing.TB, a, b End, delay time.Duration) {
	t.Helper()
	var devices []*os.File
	for _, e := range []End{a, b} {
		f, err := tun(e)
		if err != nil {
			t.Fatalf("TUN device %s: %v", e.Name, err)
		}
		t.Cleanup(func() { f.Close() })
		devices = append(devices, f)
	}
	go carry(devices[0], devices[1], delay)
	go carry(devices[1], devices[0], delay)
}

// tun makes a device in the end's namespace; it is gone when it is closed.
func tun(e End) (f *os.File, err error) {
	err = e.Net.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq(e.Name)
		if err == nil {
			ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
		if err == nil {
			err = configureHere(e)
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), e.Name) // non-blocking: Close ends a Read
		return nil
	})
	return f, err
}

// configureHere gives the end's device of the calling thread's namespace its
// addresses.
func configureHere(e End) error {
	link, err := netlink.LinkByName(e.Name)
	if err != nil {
		return err
	}
	for _, s := range e.Addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// carry takes packets from one end to the other until an end is closed.
func carry(from, to *os.File, delay time.Duration) {
	type packet struct {
		due  time.Time
		data []byte
	}
	line := make(chan packet, 10_000) // what is more is lost, as on any line
	go func() {
		for p := range line {
			time.Sleep(time.Until(p.due)) // the line's delay
			if _, err := to.Write(p.data); err != nil && errors.Is(err, os.ErrClosed) {
				return
			}
		}
	}()
	defer close(line)
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		select {
		case line <- packet{time.Now().Add(delay), append([]byte(nil), buffer[:n]...)}:
		default:
		}
	}
}
