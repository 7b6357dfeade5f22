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
	"midspan/internal/daemon"
)

// memory keeps the addresses of names, and the nodes of clusters, over a restart, so
// that one without DNS forwards to where the last one did, and the ports of nodes
// work before any client has been told of them.
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

// The files, in dir.
const (
	namesFile    = "names.json"
	clustersFile = "clusters.json"
)

func (m memory) load() map[string][]netip.Addr {
	var known map[string][]netip.Addr
	if !m.read(namesFile, "names", &known) {
		return nil
	}
	return known
}

func (m memory) save(known map[string][]netip.Addr) {
	m.write(namesFile, "the addresses of names are not kept for the next start", known)
}

// loadClusters gives what was known of Kafka clusters, by route.
func (m memory) loadClusters() map[string]daemon.Cluster {
	var known map[string]daemon.Cluster
	if !m.read(clustersFile, "the nodes of clusters", &known) {
		return nil
	}
	return known
}

// saveClusters makes no file for who has no cluster.
func (m memory) saveClusters(known map[string]daemon.Cluster) {
	_, err := os.Stat(filepath.Join(m.dir, clustersFile))
	if len(known) > 0 || err == nil {
		m.write(clustersFile, "the nodes of clusters are not kept for the next start", known)
	}
}

// read fills to with what a file has; false: there is none, or none that is whole.
func (m memory) read(file, of string, to any) bool {
	if m.dir == "" {
		return false
	}
	data, err := os.ReadFile(filepath.Join(m.dir, file))
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("what was known of "+of+" is lost", "error", err)
	}
	return err == nil
}

// write replaces a file as a whole. A machine that loses its power has the old one or
// the new one.
func (m memory) write(file, problem string, v any) {
	if m.dir == "" {
		return
	}
	file = filepath.Join(m.dir, file)
	data, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		err = writeSynced(file+".new", append(data, '\n'))
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		m.log.Warn(problem, "error", err)
	}
}

func writeSynced(file string, data []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
