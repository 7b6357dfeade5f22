package host

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctl is a wanted value of a kernel setting.
type Sysctl struct {
	// Name as sysctl(8) takes it, "net.ipv4.ip_forward", or with slashes,
	// which an interface with a dot in its name needs: "net/ipv4/conf/eth0.7/forwarding".
	Name    string
	Value   int64
	AtLeast bool   // a higher value is as good; so is 0 where that means no limit (nf_conntrack_max)
	Needed  bool   // without it nothing works: not getting it is an error and no warning
	Why     string // what goes wrong without it, as half a sentence
}

func (s Sysctl) goodEnough(have int64) bool {
	unlimited := have == 0 && s.key() == "net/netfilter/nf_conntrack_max"
	return have == s.Value || s.AtLeast && (have > s.Value || unlimited)
}

// key is the path below /proc/sys.
func (s Sysctl) key() string {
	if strings.Contains(s.Name, "/") {
		return s.Name
	}
	return strings.ReplaceAll(s.Name, ".", "/")
}

// dotted is how a file in /etc/sysctl.d names a key: dots and slashes change
// places.
func dotted(key string) string {
	return strings.NewReplacer("/", ".", ".", "/").Replace(key)
}

// SysctlError is a setting that has not got its wanted value.
type SysctlError struct {
	Sysctl
	Have int64 // -1: it could not be read
	Err  error
}

func (e *SysctlError) Error() string {
	have := "is not there"
	if e.Have >= 0 {
		have = fmt.Sprintf("is %d", e.Have)
	}
	return fmt.Sprintf("%s %s and could not be set to %d: %v: %s; put \"%s = %d\" into /etc/sysctl.d/60-midspan.conf and run \"sysctl --system\"",
		dotted(e.key()), have, e.Value, e.Err, e.Why, dotted(e.key()), e.Value)
}

func (e *SysctlError) Unwrap() error { return e.Err }

// Sysctls sets kernel settings and gives them back their former values. The
// zero value works; it is not for use by several goroutines at once, and one
// process at a time is expected to set the same settings.
type Sysctls struct {
	// Root is where the settings are; "": /proc/sys.
	Root string
	// Dir is where the former values are kept, so that they outlive a crash,
	// as Dir/sysctls.json; it is made if need be. "": in memory only. It holds
	// for one boot and one network namespace: values of another are ignored.
	Dir string

	loaded  bool
	changes []change // in the order they were made
}

// change is a setting that is not as it was found.
type change struct {
	Key string `json:"key"`
	Was int64  `json:"was"` // before midspan, or a predecessor that crashed, first set it
	Set int64  `json:"set"`
}

// Set brings the settings to the wanted values, in order, and reads each back.
// One that is good enough already is left alone, so that setting the same again
// does nothing: that matters, since even writing the value that is there can
// have effects (an IPv6 forwarding flag drops learnt routes).
//
// After a needed one has failed nothing more is written, since forwarding
// without what comes before it can do harm; the errors still name all that is
// missing.
//
// changed says what it did, as "net.ipv4.ip_forward: 0 → 1". Warnings are of
// type *SysctlError; those of needed settings are joined into err instead.
func (s *Sysctls) Set(wanted []Sysctl) (changed []string, warnings []error, err error) {
	if err := s.load(); err != nil {
		warnings = append(warnings, err)
	}
	var failed []error
	for _, w := range wanted {
		have, err := s.read(w.key())
		if err != nil {
			have = -1
		} else if w.goodEnough(have) {
			continue
		} else if len(failed) > 0 {
			err = errors.New("not tried, since another setting is missing")
		} else if err = s.change(w, have); err == nil {
			changed = append(changed, fmt.Sprintf("%s: %d → %d", dotted(w.key()), have, w.Value))
			continue
		}
		problem := &SysctlError{w, have, reason(err)}
		if w.Needed {
			failed = append(failed, problem)
		} else {
			warnings = append(warnings, problem)
		}
	}
	return changed, warnings, errors.Join(failed...)
}

// change sets one, and remembers it and all that the kernel changes along with
// it. The former values are on disk before the write: a crash between the two
// leaves an entry that load finds to be void.
func (s *Sysctls) change(w Sysctl, have int64) error {
	kept := slices.Clone(s.changes)
	s.remember(w.key(), have, w.Value)
	for _, side := range s.alongWith(w.key(), w.Value) {
		// Even one that has the value already: giving back the former value
		// of w would change it.
		if was, err := s.read(side.Key); err == nil {
			s.remember(side.Key, was, side.Set)
		}
	}
	err := s.store()
	if err == nil {
		err = s.write(w.key(), w.Value)
	}
	if err == nil {
		var got int64
		if got, err = s.read(w.key()); err == nil && !w.goodEnough(got) {
			err = fmt.Errorf("the kernel made it %d", got)
		}
	}
	if err != nil {
		s.changes = kept
		return errors.Join(err, s.store())
	}
	return nil
}

// remember keeps the value that was there first.
func (s *Sysctls) remember(key string, was, set int64) {
	for i := range s.changes {
		if s.changes[i].Key == key {
			s.changes[i].Set = set
			return
		}
	}
	s.changes = append(s.changes, change{key, was, set})
}

// alongWith are the settings that the kernel sets by itself when key is
// written, and to what. net.ipv4.ip_forward and its alias set the flag of every
// interface and turn over all.accept_redirects (inet_forward_change in
// net/ipv4/devinet.c: all there is to the "resets all configuration parameters"
// of ip-sysctl.rst); net.ipv6.conf.all.forwarding sets the flag of every
// interface (addrconf_forward_change in net/ipv6/addrconf.c).
func (s *Sysctls) alongWith(key string, value int64) []change {
	const alias, redirects = "net/ipv4/conf/all/forwarding", "net/ipv4/conf/all/accept_redirects"
	var list []change
	pattern := ""
	switch key {
	case "net/ipv4/ip_forward", alias:
		pattern = "net/ipv4/conf/*/forwarding"
		list = append(list, change{Key: redirects, Set: 1 - value})
	case "net/ipv6/conf/all/forwarding":
		pattern = "net/ipv6/conf/*/forwarding"
	default:
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(s.root(), pattern))
	for _, f := range files {
		if k, err := filepath.Rel(s.root(), f); err == nil && k != key && k != alias {
			list = append(list, change{Key: k, Set: value})
		}
	}
	return list
}

// Changed tells whether a setting is not as it was found, by us or by a
// predecessor that crashed.
func (s *Sysctls) Changed(name string) bool {
	_ = s.load() // Set has said what is wrong with it
	key := Sysctl{Name: name}.key()
	return slices.ContainsFunc(s.changes, func(c change) bool { return c.Key == key })
}

// Leave forgets the former values of settings below these paths, such as
// "net/ipv4": they stay as they are.
func (s *Sysctls) Leave(paths ...string) error {
	if err := s.load(); err != nil {
		return err
	}
	s.changes = slices.DeleteFunc(s.changes, func(c change) bool {
		return slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(c.Key, p) })
	})
	return s.store()
}

// Close gives every setting its former value, unless somebody has changed it
// since: then it is left, and a warning says so. A setting whose interface has
// gone is forgotten. What could not be restored is in err and stays in Dir, for
// another Close.
func (s *Sysctls) Close() (warnings, err error) {
	if err := s.load(); err != nil {
		return nil, err
	}
	// What others have changed is decided for all before the first write,
	// since one write can change several.
	var mine []change
	var left []error
	for _, c := range s.changes {
		have, err := s.read(c.Key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err == nil && have != c.Set && have != c.Was:
			left = append(left, fmt.Errorf("%s was %d, was set to %d, and is %d now: somebody else has changed it, so it is left", dotted(c.Key), c.Was, c.Set, have))
		default:
			mine = append(mine, c)
		}
	}
	// In the order they were made: a setting that the kernel changed along with
	// another comes after it, or it would be changed again.
	var failed []error
	s.changes = slices.DeleteFunc(mine, func(c change) bool {
		have, err := s.read(c.Key)
		if err == nil && have != c.Was {
			err = s.write(c.Key, c.Was)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, fmt.Errorf("%s could not be set back to %d: %w", dotted(c.Key), c.Was, reason(err)))
			return false
		}
		return true
	})
	failed = append(failed, s.store())
	return errors.Join(left...), errors.Join(failed...)
}

func (s *Sysctls) root() string { return cmp.Or(s.Root, procSys) }

func (s *Sysctls) read(key string) (int64, error) {
	data, err := os.ReadFile(filepath.Join(s.root(), key))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// write opens without O_CREATE: a setting that is not there must stay so in a
// test's directory as well.
func (s *Sysctls) write(key string, value int64) error {
	f, err := os.OpenFile(filepath.Join(s.root(), key), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(value, 10) + "\n")
	return errors.Join(err, f.Close())
}

// reason says what an error of /proc/sys means.
func reason(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("this kernel has no such setting, or its module is not loaded (nf_conntrack, ipv6)")
	case errors.Is(err, unix.EROFS):
		return errors.New("/proc/sys is mounted read-only, as in a container or under ProtectKernelTunables=yes")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("not permitted: it needs root, and some settings can be changed in the host's own network namespace only")
	case errors.Is(err, unix.EINVAL):
		return errors.New("the kernel does not accept the value")
	}
	return err
}
