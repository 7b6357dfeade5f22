// Command midspan forwards connections from a cloud's private endpoint to their
// real targets. See `midspan help`.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
)

// version is set by the linker (make build).
var version = "dev"

// Exit codes: the command ran and the answer is yes, it ran and the answer is
// no, it could not run.
const (
	exitOK = iota
	exitNo
	exitFailed
)

// errNo is an answer of no that has been printed already.
var errNo = errors.New("no")

func main() {
	os.Exit(midspan(context.Background(), standardUI(), os.Args[1:]))
}

// midspan runs one command line and returns its exit code.
func midspan(ctx context.Context, ui *ui, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	root := commands(ui)
	root.SetArgs(args)
	switch err := root.ExecuteContext(ctx); {
	case err == nil:
		return exitOK
	case errors.Is(err, errNo):
		return exitNo
	default:
		ui.fail(err)
		return exitFailed
	}
}

// commands is the command table: nouns read, verbs change.
func commands(ui *ui) *cobra.Command {
	root := &cobra.Command{
		Use:   "midspan",
		Short: "Forward connections from a cloud's private endpoint to their real targets",
		Long: `midspan runs on the VMs behind a Private Link Service's load balancer and
forwards each connection to its real target: a database, Kafka, a web service,
on premises or in another network. It replaces a hand-made HAProxy, nginx
stream or ip_fwd.sh, and reads their configuration as it is.`,
		Example: `  midspan import haproxy haproxy.cfg > midspan.yaml
  midspan check midspan.yaml
  midspan run midspan.yaml`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
	}
	root.SetOut(ui.out)
	root.SetErr(ui.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError{c, err} })
	root.AddGroup(
		&cobra.Group{ID: "file", Title: "With a file:"},
		&cobra.Group{ID: "live", Title: "With a running daemon:"},
	)
	file := []*cobra.Command{runCommand(ui), loadCommand(ui), forwardCommand(ui), checkCommand(ui), importCommand(ui), planCommand(ui), doctorCommand(ui), schemaCommand(ui)}
	live := []*cobra.Command{statusCommand(ui), connsCommand(ui), killCommand(ui), reloadCommand(ui), drainCommand(ui)}
	for _, c := range file {
		c.GroupID = "file"
	}
	for _, c := range live {
		c.GroupID = "live"
	}
	root.AddCommand(file...)
	root.AddCommand(live...)
	root.AddCommand(versionCommand(ui), manCommand(ui))
	for _, c := range root.Commands() {
		c.Args = withUsage(c.Args)
	}
	return root
}

// withUsage makes a wrong number of arguments an error that shows the usage.
func withUsage(check cobra.PositionalArgs) cobra.PositionalArgs {
	if check == nil {
		return nil
	}
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{c, err}
		}
		return nil
	}
}
