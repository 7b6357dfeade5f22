package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	controlFile   = "control.sock"
	maxSocketPath = 107 // sun_path, unix(7)
)

// DefaultControl is the path of the control socket where nothing names one:
// $MIDSPAN_CONTROL; else in the service's runtime directory (systemd's
// RuntimeDirectory=), in /run/midspan for root, in the user's runtime directory,
// or in a directory of the user's own under the one for temporary files.
func DefaultControl() string {
	if path := os.Getenv("MIDSPAN_CONTROL"); path != "" {
		return path
	}
	if dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); dir != "" {
		return filepath.Join(dir, controlFile)
	}
	if os.Geteuid() == 0 {
		return "/run/midspan/" + controlFile
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "midspan", controlFile)
	}
	return filepath.Join(temporaryDir(), controlFile)
}

func temporaryDir() string {
	return filepath.Join(os.TempDir(), "midspan-"+strconv.Itoa(os.Geteuid()))
}

// controlPlace is the path of a control socket.
type controlPlace string

func (p controlPlace) listen([slots]*endpoint) (net.Listener, error) {
	path := string(p)
	switch {
	case path[0] == '@':
		return nil, fmt.Errorf("control: %s is an abstract socket, which every user may connect to; set `control:` to a path", path)
	case len(path) > maxSocketPath:
		return nil, fmt.Errorf("control: the path %s is longer than %d bytes, the most a socket may have; set `control:` to a shorter one", path, maxSocketPath)
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, p.explain(err)
	}
	ln, err := p.bind()
	if errors.Is(err, unix.EADDRINUSE) {
		if err := p.removeStale(); err != nil {
			return nil, err
		}
		ln, err = p.bind()
	}
	if err != nil {
		return nil, p.explain(err)
	}
	return ln, nil
}

// makeDir makes the directory of the socket, where directories come and go with
// the boot; elsewhere one that is missing is a mistake. Under /tmp anybody may
// have made it before us, to put a socket of theirs in the place of ours.
func makeDir(dir string) error {
	switch filepath.Dir(dir) {
	case "/run", "/var/run", os.Getenv("XDG_RUNTIME_DIR"), os.TempDir():
	default:
		return nil
	}
	mode := fs.FileMode(0o755)
	private := dir == temporaryDir()
	if private {
		mode = 0o700
	}
	err := os.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil || !private {
		return err
	}
	return ownedBy(dir, os.Geteuid())
}

// ownedBy makes sure that dir is a directory that only the user may write to.
func ownedBy(dir string, uid int) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory", dir)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != uid {
		return fmt.Errorf("%s belongs to user %d", dir, owner)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s may be written to by others (mode %#o)", dir, mode)
	}
	return nil
}

// bind opens the socket with mode 0600 from the first moment on.
func (p controlPlace) bind() (*controlListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		control := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(control, err)
	}}
	ln, err := lc.Listen(context.Background(), "unix", string(p))
	if err != nil {
		return nil, err
	}
	l := &controlListener{UnixListener: ln.(*net.UnixListener), path: string(p)}
	l.SetUnlinkOnClose(false) // Close looks first whether it is ours
	if l.file, err = os.Lstat(l.path); err != nil {
		l.UnixListener.Close()
		return nil, err
	}
	return l, nil
}

// removeStale removes the socket of a daemon that is no more.
func (p controlPlace) removeStale() error {
	path := string(p)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return p.explain(err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("control: %s exists and is no socket; remove it, or set `control:` to another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		defer c.Close()
		return fmt.Errorf("control: another midspan%s uses %s; set `control:` to another path", peer(c.(*net.UnixConn)), path)
	case errors.Is(err, unix.ECONNREFUSED):
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p.explain(err)
		}
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return p.explain(err)
}

// peer is who listens at the other end, as " (pid N)".
func peer(c *net.UnixConn) string {
	raw, err := c.SyscallConn()
	if err != nil {
		return ""
	}
	var cred *unix.Ucred
	_ = raw.Control(func(fd uintptr) { cred, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if cred == nil || cred.Pid == 0 { // 0: of another PID namespace
		return ""
	}
	return fmt.Sprintf(" (pid %d)", cred.Pid)
}

// explain says what to do about err.
func (p controlPlace) explain(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	return fmt.Errorf("control: cannot listen on %s: %w; set `control:` to a path that this user may write, or to off", string(p), err)
}

// controlListener is a Unix socket that goes with its file.
type controlListener struct {
	*net.UnixListener
	path string
	file fs.FileInfo
}

// intact tells whether the file is still there, and ours.
func (l *controlListener) intact() bool {
	now, err := os.Lstat(l.path)
	return err == nil && os.SameFile(now, l.file)
}

// Close removes the file if it is ours. That comes first: as long as the socket
// is open, no other file can have its inode number.
func (l *controlListener) Close() error {
	var err error
	if l.intact() {
		err = os.Remove(l.path)
	}
	return errors.Join(err, l.UnixListener.Close())
}
