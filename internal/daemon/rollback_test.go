package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"midspan/internal/plan"
)

// TestFailedReloadLosesNoName: with DNS down, a reload that fails half-way leaves
// the route its last known addresses, and so does one that only changes how names
// are asked for.
func TestFailedReloadLosesNoName(t *testing.T) {
	port, _ := named(t, "127.0.0.1:0", "one")
	taken, _ := named(t, "0.0.0.0:0", "taken")
	file := fmt.Sprintf("routes: {r: {listen: PORT, to: 'db.test:%d'}}", port)
	r := newRig(t, file)
	r.zone.set("db.test", "127.0.0.1")
	r.start()
	r.until("forwarding", func() bool { return r.who() == "one" })
	r.zone.set("db.test") // SERVFAIL from now on
	r.write(fmt.Sprintf("routes: {other: {listen: %d, to: '127.0.0.1:1'}}", taken))
	if err := r.Reload(context.Background()); err == nil {
		t.Fatal("a reload to a port that is taken")
	}
	if got := r.who(); got != "one" {
		t.Errorf("%s after a failed reload", got)
	}
	for i := range 2 {
		r.write(file)
		r.file.Store(strings.Replace(r.file.Load().(string), "timeout: 5s", fmt.Sprintf("timeout: %ds", 6+i), 1))
		if err := r.Reload(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := r.who(); got != "one" {
			t.Errorf("%s after reload %d with other DNS settings", got, i+1)
		}
	}
}

// TestFailedPrepare: when one of what Prepare opens cannot be had, the rest goes
// back to where the old plan has it.
func TestFailedPrepare(t *testing.T) {
	one, _ := named(t, "127.0.0.1:0", "one")
	r := newRig(t, fmt.Sprintf("routes: {old: {listen: PORT, to: '127.0.0.1:%d'}}", one))
	var prepared []string
	r.o.Prepare = func(p *plan.Plan) error {
		prepared = append(prepared, p.Routes[0].Name)
		if p.Routes[0].Name == "new" {
			return errors.New("no log")
		}
		return nil
	}
	r.start()
	r.write(fmt.Sprintf("routes: {new: {listen: PORT, to: '127.0.0.1:%d'}}", one))
	if err := r.Reload(context.Background()); err == nil || err.Error() != "no log" {
		t.Errorf("%v, want the error of Prepare", err)
	}
	if got := strings.Join(prepared, " "); got != "old new old" {
		t.Errorf("prepared %s, want the old plan again", got)
	}
}

// TestLastResort: a route without a check whose only server fails is tried on,
// but the probe does not count on it.
func TestLastResort(t *testing.T) {
	r := newRig(t, fmt.Sprintf("routes: {r: {listen: PORT, to: '127.0.0.1:%d', check: {every: 30s, fall: 2}}}", freePort(t)))
	r.start()
	for range 3 {
		r.who()
	}
	r.until("not ready", func() bool { return r.Ready() != nil })
	e := r.Status().Engine.Routes[0].Endpoints[0]
	if !e.Up || !e.LastResort || e.LastError == "" {
		t.Errorf("%+v; want it up as a last resort, and why", e)
	}
	if !strings.Contains(r.log.String(), "the probe answers 503") {
		t.Errorf("the log does not say so:\n%s", r.log.String())
	}
}
