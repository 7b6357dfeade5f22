package conntrack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// asPeer is set in a process that is an end of connections, in a namespace of
// its own. It takes orders on its standard input, one a line, and reports on its
// standard output.
const asPeer = "MIDSPAN_TEST_CONNTRACK_PEER"

// end is such a process, seen from the test.
type end struct {
	in    io.Writer
	mu    sync.Mutex
	lines []string
}

// startEnd starts an end and joins it by a cable, whose other side, in this
// namespace, gets the addresses' .1.
func startEnd(t *testing.T, name, v4, v6 string) *end {
	t.Helper()
	cmd := namespaced([]string{"-test.run=^$"}, asPeer+"="+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(cmd.Process.Pid)}
	if err := netlink.LinkAdd(cable); err != nil {
		t.Fatal(err)
	}
	if err := furnish(name, v4+".1/24", v6+"::1/64"); err != nil {
		t.Fatal(err)
	}
	e := &end{in: in}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			e.mu.Lock()
			e.lines = append(e.lines, s.Text())
			e.mu.Unlock()
		}
	}()
	e.order(t, "up %s %s", v4, v6)
	e.expect(t, "is up")
	return e
}

func (e *end) order(t *testing.T, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(e.in, format+"\n", args...); err != nil {
		t.Fatal(err)
	}
}

// forget returns what was said and is no longer counted as such.
func (e *end) forget() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	lines := e.lines
	e.lines = nil
	return lines
}

func (e *end) said(line string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.lines {
		if strings.HasPrefix(l, line) {
			return true
		}
	}
	return false
}

func (e *end) expect(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		for stop := time.Now().Add(30 * time.Second); !e.said(line); time.Sleep(2 * time.Millisecond) {
			if time.Now().After(stop) {
				e.mu.Lock()
				defer e.mu.Unlock()
				t.Fatalf("no %q in\n%s", line, strings.Join(e.lines, "\n"))
			}
		}
	}
}

// furnish sets a device up and gives it addresses.
func furnish(device string, cidrs ...string) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	for _, cidr := range cidrs {
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// peer is the process: it ends with its standard input.
func peer() error {
	var conns sync.Map
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		words := strings.Fields(s.Text())
		var err error
		switch words[0] {
		case "up": // v4 v6
			// Without lo, package net thinks that there is no IPv6.
			err = errors.Join(furnish("lo"), furnish("eth0", words[1]+".2/24", words[2]+"::2/64"))
			for _, via := range []string{words[1] + ".1", words[2] + "::1"} {
				if err == nil {
					err = netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(via)})
				}
			}
			fmt.Println("is up")
		case "nft": // rules
			cmd := exec.Command("nft", strings.TrimPrefix(s.Text(), "nft "))
			cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
			cmd.Stderr = os.Stderr
			err = cmd.Run()
			fmt.Println("has rules")
		case "serve": // port
			var l net.Listener
			if l, err = net.Listen("tcp", ":"+words[1]); err == nil {
				go serve(l)
				fmt.Println("serves")
			}
		case "dial": // id address mode
			go dial(&conns, words[1], words[2], words[3])
		case "echo": // id
			c, _ := conns.Load(words[1])
			if _, err := io.WriteString(c.(net.Conn), "ping\n"); err != nil {
				fmt.Println("broken", words[1], err)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Text(), err)
		}
	}
	return nil
}

func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			in := bufio.NewReader(c)
			hello, _ := in.ReadString('\n')
			id, mode, _ := strings.Cut(strings.TrimSpace(hello), " ")
			io.WriteString(c, "hello\n")
			if mode == "download" {
				fmt.Println("down", id, fill(c))
				return
			}
			for {
				line, err := in.ReadString('\n')
				if errors.Is(err, io.EOF) && mode == "half" {
					err = wait(c)
				}
				if err != nil {
					fmt.Println("down", id, err)
					return
				}
				if mode == "echo" {
					io.WriteString(c, line)
				}
			}
		}()
	}
}

func dial(conns *sync.Map, id, address, mode string) {
	c, err := net.DialTimeout("tcp", address, 20*time.Second)
	if err != nil {
		fmt.Println("refused", id, err)
		return
	}
	conns.Store(id, c)
	fmt.Fprintln(c, id, mode)
	in := bufio.NewReader(c)
	in.ReadString('\n')
	if mode == "half" {
		c.(*net.TCPConn).CloseWrite()
	}
	fmt.Println("up", id, c.LocalAddr().(*net.TCPAddr).Port)
	if mode == "upload" {
		fmt.Println("down", id, fill(c))
		return
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			fmt.Println("down", id, err)
			return
		}
		if mode == "echo" {
			fmt.Println("pong", id, line)
		}
	}
}

// fill writes lines until that fails.
func fill(c net.Conn) error {
	b := []byte(strings.Repeat(strings.Repeat("x", 1023)+"\n", 64))
	for {
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

// wait sends nothing, and returns when c is reset.
func wait(c net.Conn) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	for err == nil {
		time.Sleep(2 * time.Millisecond)
		e := raw.Control(func(fd uintptr) {
			var code int
			if code, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
				err = unix.Errno(code)
			}
		})
		err = errors.Join(err, e)
	}
	return err
}
