package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// Where everything is:
//
//	client 10.9.1.1 --- 10.9.1.2 forwarder 10.9.2.2 --- 10.9.2.1 target
const (
	ForwarderIP = "10.9.1.2"
	TargetIP    = "10.9.2.1"
	ClientSide  = "client0" // the forwarder's interface towards the client
	TargetSide  = "target0"
	Layout      = "client 10.9.1.1 -- veth -- 10.9.1.2 forwarder 10.9.2.2 -- veth -- 10.9.2.1 target; a network namespace each, MTU 1500"
)

// Lab is a client, a forwarder and a target, and the processes there.
type Lab struct {
	Client, Forwarder, Target *Net
	Dir                       string // for files of this lab's processes

	procs []*Proc
}

// New makes a lab. With mtu set, what the client and the target send has the
// size of the wire's frames from the start, and is put together again at the
// forwarder as a network card does it; else a packet crosses with up to 64 KiB.
func New(mtu bool) (*Lab, error) {
	l := &Lab{}
	if err := l.build(mtu); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) build(mtu bool) (err error) {
	if l.Dir, err = os.MkdirTemp("/run", "lab"); err != nil {
		return err
	}
	for _, n := range []**Net{&l.Client, &l.Forwarder, &l.Target} {
		if *n, err = newNet(); err != nil {
			return err
		}
	}
	err = errors.Join(
		cable(end{l.Client, "eth0", "10.9.1.1/24"}, end{l.Forwarder, ClientSide, ForwarderIP + "/24"}),
		cable(end{l.Forwarder, TargetSide, "10.9.2.2/24"}, end{l.Target, "eth0", TargetIP + "/24"}),
	)
	if err != nil {
		return err
	}
	err = errors.Join(
		route(l.Client, "10.9.2.0/24", ForwarderIP),
		route(l.Target, "10.9.1.0/24", "10.9.2.2"),
		l.Forwarder.Do(func() error { return sysctl("net.ipv4.ip_forward", "1") }),
	)
	if err != nil || !mtu {
		return err
	}
	return l.frames()
}

// frames takes the segmentation offloads away, and adds receive offload at the
// forwarder.
func (l *Lab) frames() error {
	ends := func() error { return offload("eth0", false, tso, gso) }
	return errors.Join(
		l.Client.Do(ends),
		l.Target.Do(ends),
		l.Forwarder.Do(func() error {
			return errors.Join(offload(ClientSide, true, gro), offload(TargetSide, true, gro))
		}),
	)
}

// Close ends the processes, newest first, and drops the namespaces.
func (l *Lab) Close() error {
	var errs []error
	for _, p := range slices.Backward(l.procs) {
		errs = append(errs, p.Stop())
	}
	l.procs = nil
	for _, n := range []*Net{l.Client, l.Forwarder, l.Target} {
		n.close()
	}
	if l.Dir != "" {
		errs = append(errs, os.RemoveAll(l.Dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("end the lab: %w", err)
	}
	return nil
}
