package lab

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of ethtool that switch an offload.
const (
	tso = unix.ETHTOOL_STSO
	gso = unix.ETHTOOL_SGSO
	gro = unix.ETHTOOL_SGRO
)

// ethtoolValue is the kernel's struct ethtool_value.
type ethtoolValue struct{ cmd, data uint32 }

// ethtoolRequest is its struct ifreq, with a pointer.
type ethtoolRequest struct {
	name  [unix.IFNAMSIZ]byte
	value *ethtoolValue
	_     [16]byte
}

// offload switches offloads of an interface in the calling thread's namespace.
func offload(name string, on bool, commands ...uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, c := range commands {
		value := ethtoolValue{cmd: c}
		if on {
			value.data = 1
		}
		req := ethtoolRequest{value: &value}
		copy(req.name[:unix.IFNAMSIZ-1], name)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return fmt.Errorf("switch offload %#x of %s: %w", c, name, errno)
		}
	}
	return nil
}
