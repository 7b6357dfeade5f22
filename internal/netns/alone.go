package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside is set in the environment of the process that Alone starts.
const inside = "MIDSPAN_NETNS_ALONE"

// Alone runs the tests of a package as root of a world of their own, and returns
// their exit code:
//
//	func TestMain(m *testing.M) {
//		os.Exit(netns.Alone(m.Run))
//	}
//
// It executes the test binary again, with the same arguments, in new network and
// mount namespaces and, unless root's powers are at hand, a new user namespace;
// run is called only there. Its network is lo and what the tests add.
func Alone(run func() int) int {
	if os.Getenv(inside) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "set up the tests' namespaces:", err)
			return 1
		}
		return run()
	}
	cmd, err := start()
	if err != nil {
		fmt.Fprintf(os.Stderr, "these tests need namespaces, which this user cannot make: %v (kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor?)\n", err)
		return 1
	}
	err = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); err == nil || code > 0 {
		return code
	}
	fmt.Fprintln(os.Stderr, "the tests in their namespaces:", err) // killed by a signal
	return 1
}

// start tries without a user namespace first when that can work.
func start() (*exec.Cmd, error) {
	const flags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
	if os.Geteuid() == 0 {
		cmd := again(syscall.SysProcAttr{Cloneflags: flags})
		if err := cmd.Start(); !errors.Is(err, syscall.EPERM) {
			return cmd, err
		}
	}
	cmd := again(syscall.SysProcAttr{
		Cloneflags:  flags | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	})
	return cmd, cmd.Start()
}

// again is this process once more.
func again(attr syscall.SysProcAttr) *exec.Cmd {
	attr.Pdeathsig = syscall.SIGKILL
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), inside+"=1"),
		Stdout: os.Stdout, Stderr: os.Stderr, SysProcAttr: &attr,
	}
}

// furnish makes the new namespaces usable.
func furnish() error {
	// Mounts made here must not show outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// What /proc/sys/net shows is the reader's; what /sys shows, the mounter's.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return up("lo")
}
