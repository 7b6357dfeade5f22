// Bench puts midspan beside other forwarders and beside none, in one run on one
// machine: `make bench`, or `go run . -h`.
//
// The client, the forwarder and the target are processes in network namespaces
// of the program's own. All peers take turns within each round, so that what
// the machine does meanwhile meets them all.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"

	"midspan/bench/lab"
	"midspan/bench/load"
	"midspan/bench/peer"
)

func main() {
	code, err := start(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	os.Exit(code)
}

// start is what this process is to be: the program, or an end of a measurement.
func start(args []string) (code int, err error) {
	roles := map[string]func(string) error{
		"serve": serve(load.Serve), "serve-http": serve(load.ServeHTTP), "serve-proxy": serve(load.ServeProxy), "serve-tls": load.ServeTLS, "serve-kafka": serve(load.ServeKafka),
		"load": drive, "iocopy": peer.IOCopy, "apply": apply,
	}
	if len(args) == 2 && roles[args[0]] != nil {
		if err := roles[args[0]](args[1]); err != nil {
			return 1, fmt.Errorf("%s: %w", args[0], err)
		}
		return 0, nil
	}
	o, err := parseOptions(args, os.Getenv)
	if errors.Is(err, flag.ErrHelp) {
		return 0, nil
	} else if err != nil {
		return 2, err
	}
	if err := o.missing(); err != nil { // before anything is started
		return 1, err
	}
	if inside, code, err := lab.Isolate(); !inside || err != nil {
		return max(code, btoi(err != nil)), err
	}
	return measure(o)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// serve is the target, which answers at an address until it is killed.
func serve(f func(context.Context, string) error) func(addr string) error {
	return func(addr string) error {
		runtime.LockOSThread()
		return f(context.Background(), addr)
	}
}

// drive is the client: its last line is the report.
func drive(text string) error {
	runtime.LockOSThread()
	var spec load.Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	var report load.Report
	var err error
	if spec.Hold {
		report, err = load.Hold(spec, os.Stdout, os.Stdin)
	} else {
		report, err = load.Run(spec, os.Stdout)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

// interruptible ends with the first Ctrl-C; a second ends the program.
func interruptible() (context.Context, context.CancelFunc) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-signals
		fmt.Fprintln(os.Stderr, "\nending after this run; once more ends it at once")
		cancel()
		<-signals
		os.Exit(130)
	}()
	return ctx, cancel
}
