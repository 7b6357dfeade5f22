package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"midspan/internal/admin"
)

// memory keeps the addresses of names over a restart, so that one without DNS
// forwards to where the last one did.
type memory struct {
	dir string // "": nothing is kept
	log *slog.Logger
}

// stateDir is where systemd has us keep state, or /var/lib/midspan if somebody has
// made that.
func stateDir() string {
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	const usual = "/var/lib/midspan"
	if s, err := os.Stat(usual); err == nil && s.IsDir() {
		return usual
	}
	return ""
}

// kernelState is where the former values of kernel settings are kept: where state
// is, since that outlives the process in any case.
func kernelState() string { return cmp.Or(stateDir(), filepath.Dir(admin.DefaultControl())) }

func (m memory) file() string { return filepath.Join(m.dir, "names.json") }

func (m memory) load() map[string][]netip.Addr {
	if m.dir == "" {
		return nil
	}
	var known map[string][]netip.Addr
	data, err := os.ReadFile(m.file())
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("what was known of names is lost", "error", err)
		return nil
	}
	return known
}

// save replaces the file as a whole.
func (m memory) save(known map[string][]netip.Addr) {
	if m.dir == "" {
		return
	}
	data, err := json.MarshalIndent(known, "", "  ")
	if err == nil {
		err = os.WriteFile(m.file()+".new", append(data, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(m.file()+".new", m.file())
	}
	if err != nil {
		m.log.Warn("the addresses of names are not kept for the next start", "error", err)
	}
}
