package e2e

import (
	"encoding/json"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// TestConnsAndKill lists connections and resets one of them, on both legs.
func TestConnsAndKill(t *testing.T) {
	ends := make(chan string, 3)
	server := rig.Serve(t, nil, "127.0.0.2:0", func(c *net.TCPConn) {
		rig.Echo(c)
		ends <- c.RemoteAddr().String()
	})
	f := rig.NewFile(t)
	addr := rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  echo: { listen: %q, to: %q }\n", addr, server.Addr)
	m := rig.Run(t, f)
	conns := map[string]net.Conn{}
	for range 3 {
		c := idle(t, addr)
		conns[c.LocalAddr().String()] = c
	}
	var listed []struct {
		ID, Route, State, Client, Endpoint string
		BytesUp                            int64 `json:"bytes_up"`
		BytesDown                          int64 `json:"bytes_down"`
	}
	if err := json.Unmarshal([]byte(m.Control("conns", "--json")), &listed); err != nil {
		t.Fatal(err)
	}
	if len(listed) != len(conns) {
		t.Fatalf("%d connections are listed, want %d: %+v", len(listed), len(conns), listed)
	}
	for _, l := range listed {
		if conns[l.Client] == nil || l.Route != "echo" || l.Endpoint != server.Addr || l.BytesUp != 100 || l.BytesDown != 100 || l.State != "open" {
			t.Errorf("listed is %+v", l)
		}
	}
	m.Control("kill", listed[1].ID)
	wantReset(t, conns[listed[1].Client])
	select {
	case <-ends:
	case <-time.After(5 * time.Second):
		t.Error("the server's leg of a killed connection lives on")
	}
	for i, l := range listed {
		if i != 1 {
			if err := exchange(conns[l.Client], 9, 1000); err != nil {
				t.Errorf("a connection that was not killed: %v", err)
			}
		}
	}
	if _, text, code := rig.Command(t, "", "kill", listed[1].ID, "--control", f.Control); code != 1 {
		t.Errorf("killing it again: exit code %d, want 1: %s", code, text)
	}
}

// TestBrokenReload reloads a file with mistakes, in both ways: nothing changes,
// and it is said where the mistakes are.
func TestBrokenReload(t *testing.T) {
	f, addr := echoFile(t, "off")
	m := rig.Run(t, f)
	c := idle(t, addr)
	f.Write("routes:\n  echo: { listne: 1, to: \"127.0.0.1:1\" }\n")
	m.Signal(syscall.SIGHUP)
	m.AwaitLog("reload failed", rig.Patience)
	_, text, code := rig.Command(t, "", "reload", "--control", f.Control)
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	wantWords(t, text, f.Path+":6:", "listne")
	if err := exchange(c, 1, 1000); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	if err := once(addr, 1); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	if code := m.Probe(); code != 200 {
		t.Errorf("the probe answers %d", code)
	}
	if out := m.Control("status"); !strings.Contains(out, "listne") {
		t.Errorf("status does not tell of the failed reload:\n%s", out)
	}
	if metrics(t, m)["midspan_config_last_reload_successful"] != 0 {
		t.Error("the metric says that the last reload worked")
	}
}

// TestDrainCommand drains by command and waits for the last connection.
func TestDrainCommand(t *testing.T) {
	f, addr := echoFile(t, "off")
	m := rig.Run(t, f)
	c := idle(t, addr)
	p := rig.Start(t, rig.Spec{Program: rig.Bin(t), Args: []string{"drain", "--wait", "--control", f.Control}})
	rig.Until(t, rig.Patience, "it says for what it waits", func() bool { return strings.Contains(p.Stderr(), "1 connection") })
	time.Sleep(time.Second) // it could end in
	if !p.Alive() {
		t.Errorf("it has not waited for the connection:\n%s", p.Stderr())
	}
	c.Close()
	code := p.Exit(rig.Patience)
	t.Logf("exit code %d:\n%s", code, p.Stderr())
	if code != 0 {
		t.Errorf("exit code %d after the end of the last connection", code)
	}
	wantWords(t, p.Stderr(), "drained")
	if code := m.Exit(rig.Patience); code != 0 {
		t.Errorf("midspan's exit code is %d, want 0", code)
	}
}
