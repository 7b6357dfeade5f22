package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// state is the file that lets former values outlive a crash.
type state struct {
	Boot      string   `json:"boot"`    // boot_id of the kernel: its settings do not outlive it
	Namespace string   `json:"network"` // of the settings
	Changes   []change `json:"changes"`
}

func (s *Sysctls) file() string { return filepath.Join(s.Dir, "sysctls.json") }

// here identifies the settings that the values belong to.
func here() (boot, namespace string) {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	namespace, _ = os.Readlink("/proc/thread-self/ns/net")
	return strings.TrimSpace(string(id)), namespace
}

// load takes over what a predecessor left that did not come to restore it. A
// value that has been changed since then is nobody's any more: what is there
// now is to be restored.
func (s *Sysctls) load() error {
	if s.loaded || s.Dir == "" {
		return nil
	}
	s.loaded = true
	data, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var old state
	if err == nil {
		err = json.Unmarshal(data, &old)
	}
	if err != nil {
		return fmt.Errorf("the former values of kernel settings cannot be read, those of now will be restored at the end: %w", err)
	}
	if boot, namespace := here(); old.Boot != boot || old.Namespace != namespace {
		return nil
	}
	s.changes = slices.DeleteFunc(old.Changes, func(c change) bool {
		have, err := s.read(c.Key)
		return err != nil || have != c.Set
	})
	return nil
}

// store replaces the file as a whole, or removes it when nothing is left to
// restore. There is no fsync: the file matters until the next boot only.
func (s *Sysctls) store() error {
	if s.Dir == "" {
		return nil
	}
	if len(s.changes) == 0 {
		if err := os.Remove(s.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	boot, namespace := here()
	data, err := json.MarshalIndent(state{boot, namespace, s.changes}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	next := s.file() + ".new"
	if err := os.WriteFile(next, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, s.file())
}
