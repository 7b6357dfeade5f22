package main

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"midspan/internal/daemon"
)

// TestMemory: what is saved comes back as it was, over what a crash has left, and
// a file that is broken is said to be and does no harm.
func TestMemory(t *testing.T) {
	var log bytes.Buffer
	m := memory{t.TempDir(), slog.New(slog.NewTextHandler(&log, nil))}
	if m.load() != nil || m.loadClusters() != nil || log.Len() > 0 {
		t.Errorf("of nothing: %v, %v; %s", m.load(), m.loadClusters(), log.String())
	}
	m.saveClusters(map[string]daemon.Cluster{})
	if files, _ := os.ReadDir(m.dir); len(files) > 0 {
		t.Errorf("a file for no cluster: %v", files)
	}
	names := map[string][]netip.Addr{"db.test": {netip.MustParseAddr("10.0.0.1")}}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	clusters := map[string]daemon.Cluster{"orders": {ID: "x", Nodes: map[int32]daemon.ClusterNode{
		0: {Host: "k0", Port: 9092, Since: at}, 1001: {Host: "k1", Port: 9092, Since: at, Gone: at},
	}}}
	if err := os.WriteFile(filepath.Join(m.dir, clustersFile+".new"), bytes.Repeat([]byte("{"), 9999), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m.save(names)
		m.saveClusters(clusters)
	}
	if got := m.load(); !reflect.DeepEqual(got, names) {
		t.Errorf("names: %v", got)
	}
	if got := m.loadClusters(); !reflect.DeepEqual(got, clusters) {
		t.Errorf("clusters: %+v", got)
	}
	m.saveClusters(map[string]daemon.Cluster{}) // the last route of the mode has gone
	if got := m.loadClusters(); len(got) != 0 || log.Len() > 0 {
		t.Errorf("clusters that are gone: %+v; %s", got, log.String())
	}
	for _, file := range []string{namesFile, clustersFile} {
		if err := os.WriteFile(filepath.Join(m.dir, file), []byte(`{"orders": {"nodes": {"x"`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if m.load() != nil || m.loadClusters() != nil || strings.Count(log.String(), "is lost") != 2 {
		t.Errorf("of broken files: %v, %v; %s", m.load(), m.loadClusters(), log.String())
	}
}

// TestNoMemory: without a directory nothing is kept, and one that is gone is no
// reason to stop.
func TestNoMemory(t *testing.T) {
	var log bytes.Buffer
	clusters := map[string]daemon.Cluster{"orders": {ID: "x"}}
	none := memory{"", slog.New(slog.NewTextHandler(&log, nil))}
	none.saveClusters(clusters)
	if none.loadClusters() != nil || log.Len() > 0 {
		t.Errorf("%v; %s", none.loadClusters(), log.String())
	}
	gone := memory{filepath.Join(t.TempDir(), "gone"), none.log}
	gone.saveClusters(clusters)
	if !strings.Contains(log.String(), "the nodes of clusters are not kept for the next start") {
		t.Errorf("said: %s", log.String())
	}
}
