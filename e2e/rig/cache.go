package rig

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// complete is a file in what the cache has as a whole.
const complete = ".complete"

// cached is a directory of the user's cache that make fills: once for a machine,
// however many tests ask for it at a time. It is called after kind and a digest
// of what it is made from, so that what is out of date is not found.
//
// What has to come from the internet must be asked for before Isolate, in whose
// network there is none.
func cached(t testing.TB, kind string, from []string, fill func(dir string) error) string {
	t.Helper()
	base, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(strings.Join(from, "\n")))
	dir := filepath.Join(base, "midspan-e2e", fmt.Sprintf("%s-%x", kind, digest[:6]))
	if exists(filepath.Join(dir, complete)) {
		return dir
	}
	if err := fillOnce(dir, fill); err != nil {
		t.Fatalf("make %s from %s: %v", dir, strings.Join(from, ", "), err)
	}
	return dir
}

// fillOnce makes the directory under a lock, and anew when somebody was killed
// who made it.
func fillOnce(dir string, fill func(string) error) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close() // and that unlocks
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if exists(filepath.Join(dir, complete)) {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := fill(dir); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, complete), nil, 0o644)
}

// A download is tried several times, since a registry that is busy says no, or breaks
// off, and is well a while later.
const (
	downloadTries = 4
	downloadLimit = 5 * time.Minute // of a try: one that hangs is no better than one that fails
	downloadPause = 2 * time.Second // after the first; after each further one four times as long
)

// download is command for a program that gets things from the internet, and goes on
// with what it has got when it is run again.
func download(dir, program string, args ...string) error {
	var err error
	for i := range downloadTries {
		if err = commandWithin(downloadLimit, dir, program, args...); err == nil {
			return nil
		}
		if i < downloadTries-1 {
			time.Sleep(downloadPause << (2 * i))
		}
	}
	return fmt.Errorf("%d tries, the last: %w", downloadTries, err)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
