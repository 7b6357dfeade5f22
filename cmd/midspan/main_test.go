package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"midspan/internal/brokers"
	"midspan/internal/brokers/brokertest"
	"midspan/internal/freeport"
)

func TestMain(m *testing.M) {
	// Test files run the program by its name, as the test binary under another.
	if filepath.Base(os.Args[0]) == "midspan" {
		main()
	}
	if script := os.Getenv(insideNamespace); script != "" {
		runInside(script)
	}
	testscript.Main(m, map[string]func(){"midspan": main})
}

// TestScripts runs testdata/script/*.txtar: what a user could have typed.
func TestScripts(t *testing.T) {
	ports := portsOf()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("MIDSPAN_CONTROL", filepath.Join(e.WorkDir, "control.sock"))
			names := []string{"PORT", "PORT2", "ADMIN", "HEALTH"}
			port, err := ports(len(names))
			if err != nil {
				return err
			}
			for i, name := range names {
				e.Setenv(name, strconv.Itoa(port+i))
			}
			addr, stop, err := echo()
			if err != nil {
				return err
			}
			e.Defer(stop)
			e.Setenv("ECHO", addr)
			return kafkas(e)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"expand": expand,
			"await":  await,
			"ready":  ready,
			"talk":   talk,
			"hold":   hold,
		},
	})
}

// portsOf gives each script, of which several run at once, ports that no other has:
// they are free for as long as nobody listens yet.
func portsOf() func(n int) (int, error) {
	var mu sync.Mutex
	given := map[int]bool{}
	return func(n int) (int, error) {
		mu.Lock()
		defer mu.Unlock()
	next:
		for {
			from, err := freeport.Find(n)
			if err != nil {
				return 0, err
			}
			for port := from; port < from+n; port++ {
				if given[port] {
					continue next
				}
			}
			for port := from; port < from+n; port++ {
				given[port] = true
			}
			return from, nil
		}
	}
}

// expand FILE... replaces $NAME in files by the script's variables.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
	}
}

// await PORT waits until something listens there; ! await until nothing does.
func await(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := net.Dial("tcp", "127.0.0.1:"+args[0])
		if err == nil {
			c.Close()
		}
		if (err != nil) == neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("port %s: %v after 30s", args[0], err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ready PORT waits until the probe there is answered with 200.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		resp, err := http.Get("http://127.0.0.1:" + args[0] + "/")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the probe at %s: %v after 30s", args[0], err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// talk PORT TEXT says TEXT and fails unless it comes back; ! talk expects that
// it does not.
func talk(ts *testscript.TestScript, neg bool, args []string) {
	err := func() error {
		c, err := net.Dial("tcp", "127.0.0.1:"+args[0])
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		if _, err := c.Write([]byte(args[1])); err != nil {
			return err
		}
		got := make([]byte, len(args[1]))
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		if string(got) != args[1] {
			return fmt.Errorf("%q came back", got)
		}
		return nil
	}()
	if (err != nil) != neg {
		ts.Fatalf("talk to %s: %v", args[0], err)
	}
}

// hold PORT makes a connection, exchanges a word, and keeps it to the end of the
// script.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	c, err := net.Dial("tcp", "127.0.0.1:"+args[0])
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	ts.Check(c.SetDeadline(time.Now().Add(20 * time.Second)))
	_, err = c.Write([]byte("hold"))
	ts.Check(err)
	_, err = io.ReadFull(c, make([]byte, 4))
	ts.Check(err)
}

// kafkas serves fake brokers. The one at port $KAFKA1 says that there are nodes 1 and
// 2; that at $KAFKA2, that there is also node 3 at $KAFKA3, where nothing is. The one
// at $KAFKASASL wants SASL.
func kafkas(e *testscript.Env) error {
	var nodes []brokers.Node
	var listeners []net.Listener
	for id := range int32(4) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		e.Defer(func() { ln.Close() })
		port := ln.Addr().(*net.TCPAddr).Port
		listeners = append(listeners, ln)
		nodes = append(nodes, brokers.Node{ID: id + 1, Host: "127.0.0.1", Port: uint16(port)})
		e.Setenv(fmt.Sprintf("KAFKA%d", id+1), strconv.Itoa(port))
	}
	e.Setenv("KAFKASASL", e.Getenv("KAFKA4"))
	for id := range int32(2) {
		b := &brokertest.Broker{ID: id + 1, Cluster: "MkU3OEVBNTcwNTJENDM2Qg", Nodes: nodes[:2:2], Unknown: int(id)}
		if id == 1 {
			b.Nodes = nodes[:3]
		}
		go b.Serve(listeners[id])
	}
	go (&brokertest.Broker{Mechanisms: []string{"PLAIN", "GSSAPI"}}).Serve(listeners[3])
	return listeners[2].Close()
}

func echo() (addr string, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String(), func() { ln.Close() }, nil
}

// TestHelp: every command has a line, an example, and help that can be asked for.
func TestHelp(t *testing.T) {
	root := commands(standardUI())
	for _, c := range root.Commands() {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the line %q", c.Name(), c.Short)
		}
		if c.Name() != "help" && c.Name() != "completion" && !strings.Contains(c.Example, "midspan "+c.Name()) {
			t.Errorf("%s: no example of itself in %q", c.Name(), c.Example)
		}
		for _, line := range strings.Split(c.Long, "\n") {
			if len(line) > 85 {
				t.Errorf("%s: a line of %d characters in its help", c.Name(), len(line))
			}
		}
	}
}
