package e2e

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// lab is what the reference inputs expect around them: eth0, through which
// clients come in, and servers behind another interface, by name. It needs
// rig.Isolate.
type lab struct {
	clients *rig.Net // 10.80.0.2; midspan's eth0 is 10.80.0.1
	servers *rig.Net
	eth0    *rig.Plugged
}

// labHosts are the servers' names.
var labHosts = map[string]string{
	"webserver1.org.example.com": "10.79.0.81",
	"db.org.example.com":         "10.79.0.82",
	"webserver2.org.example.com": "10.79.0.83",
	"sqlserver1.org.example.com": "10.79.0.84",
	"kafka1.corp.example.com":    "10.79.0.91",
	"kafka2.corp.example.com":    "10.79.0.92",
	"kafka3.corp.example.com":    "10.79.0.93",
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{clients: rig.NewNet(t), servers: rig.NewNet(t)}
	l.plug(t)
	far := rig.End{Net: l.servers, Name: "srv1"}
	hosts := "127.0.0.1 localhost\n"
	for name, addr := range labHosts {
		far.Addrs = append(far.Addrs, addr+"/24")
		hosts += addr + " " + name + "\n"
	}
	rig.Cable(t, rig.End{Name: "srv0", Addrs: []string{"10.79.0.1/24"}}, far)
	rig.Overlay(t, "/etc/hosts", hosts)
	return l
}

// plug makes eth0.
func (l *lab) plug(t *testing.T) {
	t.Helper()
	l.eth0 = rig.Cable(t, rig.End{Name: "eth0", Addrs: []string{"10.80.0.1/24"}},
		rig.End{Net: l.clients, Name: "cli0", Addrs: []string{"10.80.0.2/24"}})
}

// talk connects to addr from a namespace (nil: the test's own), reads which
// server greets, and has it echo a megabyte.
func talk(from *rig.Net, addr string) (greeting string, err error) {
	c, err := from.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	r := bufio.NewReader(c)
	greeting, err = r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("greeting: %w", err)
	}
	return strings.TrimSpace(greeting), exchangeBoth(c, r, 1<<20)
}

// exchangeBoth sends n bytes to an echoing server while it reads them back, so
// that neither waits for the other's buffers.
func exchangeBoth(w net.Conn, r *bufio.Reader, n int64) error {
	type result struct {
		sum rig.Sum
		err error
	}
	sent := make(chan result, 1)
	go func() {
		sum, err := rig.Send(w, 7, n)
		sent <- result{sum, err}
	}()
	got, err := rig.Receive(r, n)
	if err != nil {
		w.Close() // the sender would wait for good
		<-sent
		return err
	}
	s := <-sent
	if s.err == nil && s.sum != got {
		s.err = fmt.Errorf("%d bytes came back changed", n)
	}
	return s.err
}
