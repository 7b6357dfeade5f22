package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/daemon"
	"midspan/internal/engine"
	"midspan/internal/health"
	"midspan/internal/plan"
)

func TestClient(t *testing.T) {
	r := start(t, nil)
	r.engine.conns = []engine.Conn{
		{ID: "1", Route: "sql", State: "open", Client: netip.MustParseAddrPort("10.1.1.1:5000"), Start: time.Unix(1, 0).UTC(), Idle: time.Second, BytesUp: 5},
		{ID: "2", Route: "sql", State: "connecting", Start: time.Unix(2, 0).UTC()},
	}
	c, ctx := Dial(r.plan.Control), t.Context()

	if v, err := c.Version(ctx); err != nil || v != (Version{"1.2.3", runtime.Version(), os.Getpid()}) {
		t.Errorf("version: %+v, %v", v, err)
	}
	st, err := c.Status(ctx)
	if err != nil || !st.Ready || st.State != daemon.Running || st.Version.Version != "1.2.3" || st.LogDropped != 4 ||
		len(st.Engine.Routes) != 2 || st.Engine.Routes[0].Counters.Accepted != 7 || len(st.Health) != 2 {
		t.Errorf("status: %+v, %v", st, err)
	}
	if conns, err := c.Conns(ctx); err != nil || !reflect.DeepEqual(conns, r.engine.Conns()) {
		t.Errorf("conns: %+v, %v", conns, err)
	}
	for id, want := range map[string]bool{"1": true, "9": false, "../x y?": false} {
		if found, err := c.Kill(ctx, id); err != nil || found != want {
			t.Errorf("kill %s: %v, %v", id, found, err)
		}
	}
	if conns, _ := c.Conns(ctx); len(conns) != 1 || conns[0].ID != "2" {
		t.Errorf("after kill: %+v", conns)
	}
	var p struct{ Routes []struct{ Name string } }
	if raw, err := c.Plan(ctx); err != nil || json.Unmarshal(raw, &p) != nil || len(p.Routes) != 2 || p.Routes[0].Name != "sql" {
		t.Errorf("plan: %s, %v", raw, err)
	}
	if err := c.Drain(ctx); err != nil {
		t.Error(err)
	}
	eventually(t, "draining", func() bool { s, err := c.Status(ctx); return err == nil && s.NotReady == "draining" })
	if _, err := c.Reload(ctx); err == nil || !strings.Contains(err.Error(), "draining") {
		t.Errorf("reload while draining: %v", err)
	}
}

func TestClientReload(t *testing.T) {
	r := start(t, nil)
	c, ctx := Dial(r.plan.Control), t.Context()
	if warnings, err := c.Reload(ctx); err != nil || !slices.Equal(warnings, []string{"a warning"}) {
		t.Errorf("%q, %v", warnings, err)
	}
	r.mu.Lock()
	r.reload = errBad
	r.mu.Unlock()
	_, err := c.Reload(ctx)
	if refused := new(Error); !errors.As(err, &refused) || refused.Code != http.StatusUnprocessableEntity || err.Error() != errBad.Error() {
		t.Errorf("got %v, want %v", err, errBad)
	}
	r.mu.Lock()
	r.reload = nil
	r.mu.Unlock()

	// The reload that moves the socket it was asked through is answered.
	old := r.plan.Control
	r.set(func(p *plan.Plan) { p.Control += "2" })
	if _, err := c.Reload(ctx); err != nil {
		t.Error(err)
	}
	if _, err := Dial(old + "2").Version(ctx); err != nil {
		t.Error(err)
	}
	// One that the engine refuses goes all the way back.
	r.set(func(p *plan.Plan) { p.Control = old })
	r.engine.mu.Lock()
	r.engine.refuse = errBad
	r.engine.mu.Unlock()
	if _, err := Dial(old + "2").Reload(ctx); err == nil || err.Error() != errBad.Error() {
		t.Errorf("got %v", err)
	}
	if _, err := Dial(old + "2").Version(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(old); err == nil {
		t.Error("the socket of the refused file is there")
	}
}

// The status on the wire has everything, and can be read back.
func TestStatusRoundTrip(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := Status{
		Version: Version{"1", "go1.26", 7}, LogDropped: 2,
		Status: daemon.Status{
			State: daemon.Draining, Since: at, Loaded: at, Reloads: 1, FailedLoads: 1, FailedLoad: "x", DrainUntil: at, NotReady: "draining",
			Names: map[string]daemon.Name{"db": {Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Problem: "SERVFAIL", Since: at, Next: at}},
			Engine: engine.Status{Connections: 1, Routes: []engine.RouteStatus{{
				Name: "sql", Listening: []string{"*:1433"}, Counters: engine.Counters{Ended: map[engine.Reason]uint64{engine.Killed: 1}},
				Endpoints: []engine.EndpointStatus{{Server: "db:1433", Addr: netip.MustParseAddrPort("10.0.0.1:1433"), LastError: "refused"}},
			}}},
		},
		Health: []Check{checkOf(health.State{
			Target: health.Target{
				Addr: netip.MustParseAddrPort("10.0.0.1:1433"), Host: "db",
				Check: plan.Check{Kind: plan.CheckHTTP, Path: "/", Port: 80, Every: plan.Duration(time.Second)},
			},
			Up: true, Since: at, Latency: time.Millisecond, Tests: 3, Failed: 1, LastError: "y", LastCheck: at,
		})},
	}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out Status
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) {
		t.Errorf("in  %+v\nout %+v", in, out)
	}
}

func TestClientErrors(t *testing.T) {
	noLeaks(t)
	dir := t.TempDir()
	absent := filepath.Join(dir, "absent")
	dead := filepath.Join(dir, "dead")
	staleSocket(t, dead)
	other := filepath.Join(dir, "other")
	ln, err := net.Listen("unix", other)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	go srv.Serve(ln)
	defer srv.Close()
	for path, want := range map[string]string{
		absent: "no midspan answers at " + absent + ": is it running? (control: in the file, or --control)",
		dead:   "no midspan answers at " + dead + ": is it running? (control: in the file, or --control)",
		other:  other + " answers 404 Not Found: is it midspan's?",
	} {
		if _, err := Dial(path).Status(t.Context()); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	silent := filepath.Join(dir, "silent")
	mute, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	if err := Dial(silent).Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), silent) {
		t.Errorf("got %v", err)
	}
}

func TestAPIErrorsAreJSON(t *testing.T) {
	r := start(t, nil)
	c := Dial(r.plan.Control)
	for call, want := range map[string]string{
		"GET /v1/nothing":      "midspan 1.2.3 has no GET /v1/nothing",
		"POST /v1/status":      "midspan 1.2.3 has no POST /v1/status",
		"GET /v1/reload":       "midspan 1.2.3 has no GET /v1/reload",
		"DELETE /v1/conns/404": "no connection has the ID 404",
	} {
		method, path, _ := strings.Cut(call, " ")
		err := c.do(t.Context(), method, path, nil)
		if refused := new(Error); !errors.As(err, &refused) || refused.Code != 404 || refused.Text != want {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// staleSocket leaves what a daemon that was killed leaves.
func staleSocket(t *testing.T, path string) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
}

func TestControlSocket(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	typo := filepath.Join(dir, "no/such/sock")
	stale, alive, file := filepath.Join(dir, "stale"), filepath.Join(dir, "alive"), filepath.Join(dir, "file")
	staleSocket(t, stale)
	ln, err := net.Listen("unix", alive)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, strings.Repeat("x", 100))
	for path, want := range map[string]string{
		stale:                          "",
		filepath.Join(dir, "new/sock"): "", // with its directory
		typo:                           "control: cannot listen on " + typo + ": no such file or directory; set `control:` to a path that this user may write, or to off",
		alive:                          fmt.Sprintf("control: another midspan (pid %d) uses %s; set `control:` to another path", os.Getpid(), alive),
		file:                           "control: " + file + " exists and is no socket; remove it, or set `control:` to another path",
		"@midspan":                     "control: @midspan is an abstract socket, which every user may connect to; set `control:` to a path",
		long:                           "control: the path " + long + " is longer than 107 bytes, the most a socket may have; set `control:` to a shorter one",
	} {
		l, err := controlPlace(path).listen([slots]*endpoint{})
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%s:\ngot  %s\nwant %s", path, got, want)
		}
		if err != nil {
			continue
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != fsSocket|0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		l.Close()
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there after Close", path)
		}
	}
	if !answersUnix(alive) {
		t.Error("the socket of the other one is gone")
	}
}

const fsSocket = os.ModeSocket

func answersUnix(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// What a cleaner of /tmp took away comes back with the next reload, and what
// somebody else put there is left alone.
func TestControlSocketThatWentAway(t *testing.T) {
	r := start(t, nil)
	path := r.plan.Control
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := r.Use(r.plan); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(path).Version(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "theirs" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestDirectoryOfOthers(t *testing.T) {
	dir := t.TempDir()
	us := os.Geteuid()
	sub := filepath.Join(dir, "sub")
	link := filepath.Join(dir, "link")
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(sub, 0o700), os.Symlink(sub, link), os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	if err := ownedBy(sub, us); err != nil {
		t.Error(err)
	}
	for dir, want := range map[string]error{
		link: fmt.Errorf("%s is no directory", link),
		open: fmt.Errorf("%s may be written to by others (mode 0777)", open),
	} {
		if err := ownedBy(dir, us); err == nil || err.Error() != want.Error() {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if err := ownedBy(sub, us+1); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("belongs to user %d", us)) {
		t.Error(err)
	}
}

func TestDefaultControl(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	t.Setenv("TMPDIR", "/tmp/t")
	want := "/run/user/7/midspan/control.sock"
	if os.Geteuid() == 0 {
		want = "/run/midspan/control.sock"
	}
	if got := DefaultControl(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := temporaryDir(), fmt.Sprintf("/tmp/t/midspan-%d", os.Geteuid()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Under /tmp, neither end trusts a directory that somebody else may have made.
func TestTemporaryDirectory(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir := temporaryDir()
	path := filepath.Join(dir, controlFile)
	if _, err := Dial(path).Version(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "no midspan answers at ") {
		t.Errorf("no directory yet: %v", err)
	}
	ln, err := controlPlace(path).listen([slots]*endpoint{})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	ln.Close()
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	want := dir + " may be written to by others (mode 0770)"
	if _, err := controlPlace(path).listen([slots]*endpoint{}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("daemon: %v", err)
	}
	if _, err := Dial(path).Version(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("client: %v", err)
	}
}

// A user who may not write there, or not open the socket, is told what to do.
func TestNotPermitted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else for one thread")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "control.sock")
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setfsuid(65534); err != nil {
			done <- err
			return
		}
		_, err := controlPlace(path).listen([slots]*endpoint{})
		done <- err
	}()
	want := "control: cannot listen on " + path + ": permission denied; set `control:` to a path that this user may write, or to off"
	if err := <-done; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	err := Dial("/x").explain(t.Context(), &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", unix.EACCES)})
	if want := "this user may not use /x: permission denied; be root, or the user that midspan runs as"; err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
