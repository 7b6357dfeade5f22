// Package lab makes the machines of a measurement on one machine: network
// namespaces joined by veth pairs, the processes in them, and what the kernel
// counts of those.
//
// All of it lives in namespaces of the program's own and ends with the program,
// whatever ends that. Nothing outside changes.
package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isolated is set in the process that Isolate makes.
const isolated = "MIDSPAN_BENCH_ISOLATED"

// Isolate runs the program again in its own mount, network and PID namespaces
// (and, for an ordinary user, its own user namespace). It returns true in that
// process; in the first one it waits and returns false and the exit code.
//
// Inside, /run is empty and lo is up. The PID namespace is what ends every
// process with the program: the kernel kills all that is in it.
func Isolate() (inside bool, code int, err error) {
	if os.Getenv(isolated) != "" {
		os.Unsetenv(isolated)
		return true, 0, furnish()
	}
	cmd, err := startIsolated()
	if err != nil {
		return false, 1, fmt.Errorf("cannot make namespaces as this user: %w (kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor?)", err)
	}
	// The terminal sends SIGINT to both; the inner process decides. Others are
	// passed on.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	go func() {
		for s := range signals {
			if s != os.Interrupt {
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if exit.Exited() {
			return false, exit.ExitCode(), nil
		}
		return false, 1, fmt.Errorf("ended by %v", err)
	}
	return false, 0, err
}

// startIsolated tries without a user namespace first when that can work.
func startIsolated() (*exec.Cmd, error) {
	const flags = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID
	if os.Geteuid() == 0 {
		cmd := again(flags)
		if err := cmd.Start(); !errors.Is(err, unix.EPERM) {
			return cmd, err
		}
	}
	cmd := again(flags | unix.CLONE_NEWUSER)
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	return cmd, cmd.Start()
}

// again is this program, with its arguments.
func again(flags uintptr) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: unix.SIGKILL}
	return cmd
}

// furnish makes the new namespaces usable.
func furnish() error {
	// Mounts made here must not show outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := allFiles(); err != nil {
		return err
	}
	return up("lo")
}

// allFiles lets this process and those that it starts open as many files as the
// hard limit allows.
func allFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	// Go has raised its own limit already, but gives the old one to processes
	// that it starts until this is called.
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}

// MaxFiles is how many files a process may open.
func MaxFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Max, 1<<20))
}

// up sets a link of the calling thread's namespace up.
func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}
