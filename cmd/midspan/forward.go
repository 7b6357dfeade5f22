package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"midspan/internal/config"
	"midspan/internal/plan"
)

// forwardFlags are ip_fwd.sh's own, and what a route without a file needs.
type forwardFlags struct {
	device, frontPort, backHost, backPort string
	engine                                string
	check, health, admin, control, log    string
}

func forwardCommand(ui *ui) *cobra.Command {
	var f forwardFlags
	c := &cobra.Command{
		Use:   "forward LISTEN HOST:PORT [HOST:PORT …]",
		Short: "Forward one route without a file",
		Long: `Forward one route without a file, until SIGTERM (live connections are waited
for) or SIGINT (they are reset). ip_fwd.sh's flags are taken as they are. Probe
endpoint, admin and control socket are off unless asked for, so that several can
run side by side.`,
		Example: `  midspan forward 1434 sqlserver1.org.example.com:1433
  midspan forward -i eth0 -f 9092 -a kafka1.corp.example.com -b 9092
  midspan forward --engine nft 3306 10.79.0.82:3306`,
		RunE: func(c *cobra.Command, args []string) error {
			file, err := f.file(args)
			if err != nil {
				return usageError{c, err}
			}
			return ui.serve(c.Context(), func() (*plan.Plan, []string, error) {
				p, warnings, err := plan.New(file)
				return p, warnings.Lines(), err
			})
		},
	}
	fs := c.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.device, "interface", "i", "", "listen on this interface only (as ip_fwd.sh)")
	fs.StringVarP(&f.frontPort, "front-port", "f", "", "listen on this port (as ip_fwd.sh)")
	fs.StringVarP(&f.backHost, "back-host", "a", "", "forward to this host (as ip_fwd.sh)")
	fs.StringVarP(&f.backPort, "back-port", "b", "", "forward to this port (as ip_fwd.sh)")
	fs.StringVar(&f.engine, "engine", config.Engines[0], "what carries the bytes: relay (user space), nft (the kernel) or auto")
	fs.StringVar(&f.check, "check", "off", "test the servers: "+strings.Join(config.Checks, ", ")+", or an HTTP path")
	fs.StringVar(&f.health, "health", "off", "answer the load balancer's probe here (:8080)")
	fs.StringVar(&f.admin, "admin", "off", "serve status and metrics here (127.0.0.1:9600)")
	fs.StringVar(&f.control, "control", "off", "control socket, for status --control PATH")
	fs.StringVar(&f.log, "log", "json", "access log: json, tcplog or off")
	return c
}

// file is the config.File that the command line stands for: there is one road
// from text to plan, with the same checks.
func (f forwardFlags) file(args []string) (*config.File, error) {
	listen, servers, err := f.ends(args)
	if err != nil {
		return nil, err
	}
	at := func(i int) config.Pos { return config.Pos{File: "argument " + strconv.Itoa(i)} }
	flag := func(name string) config.Pos { return config.Pos{File: "--" + name} }
	l, err := config.ParseListen(listen)
	if err != nil {
		return nil, err
	}
	r := config.Route{Name: config.At("forward", at(0)), Listen: []config.Field[config.Listen]{config.At(l, at(1))}}
	for i, s := range servers {
		t, err := config.ParseTarget(s)
		if err != nil {
			return nil, err
		}
		r.To = append(r.To, config.Server{Target: config.At(t, at(i+2))})
	}
	if !slices.Contains(config.Engines, f.engine) {
		return nil, fmt.Errorf("unknown engine %q; write %s", f.engine, strings.Join(config.Engines, ", "))
	}
	r.Engine = config.At(f.engine, flag("engine"))
	switch {
	case f.check == "off":
	case strings.HasPrefix(f.check, "/"):
		r.Check.HTTP = config.At(f.check, flag("check"))
	case !slices.Contains(config.Checks, f.check):
		return nil, fmt.Errorf("unknown check %q; write %s, or a path such as /healthz", f.check, strings.Join(config.Checks, ", "))
	default:
		r.Check.Kind = config.At(f.check, flag("check"))
	}
	file := &config.File{Routes: []config.Route{r}}
	if file.Health.Listen, err = orOff(f.health, flag("health")); err != nil {
		return nil, err
	}
	if file.Admin, err = orOff(f.admin, flag("admin")); err != nil {
		return nil, err
	}
	file.Control = config.At(config.OffOr[string]{Off: f.control == "off", V: f.control}, flag("control"))
	switch f.log {
	case "json", "tcplog", "off":
		file.Log.Format = config.At(f.log, flag("log"))
	default:
		return nil, fmt.Errorf("unknown log format %q; write json, tcplog or off", f.log)
	}
	return file, nil
}

// ends are the listen address and the servers, of either form of the command.
func (f forwardFlags) ends(args []string) (listen string, servers []string, err error) {
	scriptForm := f.device+f.frontPort+f.backHost+f.backPort != ""
	switch {
	case scriptForm && len(args) > 0:
		return "", nil, errors.New("write either LISTEN HOST:PORT or -i -f -a -b, not both")
	case scriptForm && (f.frontPort == "" || f.backHost == "" || f.backPort == ""):
		return "", nil, errors.New("-f PORT, -a HOST and -b PORT are needed (and -i INTERFACE, if only one is meant)")
	case scriptForm:
		listen = f.frontPort
		if f.device != "" {
			listen = "%" + f.device + ":" + f.frontPort
		}
		return listen, []string{f.backHost + ":" + f.backPort}, nil
	case len(args) < 2:
		return "", nil, errors.New("LISTEN and at least one HOST:PORT are needed")
	}
	return args[0], args[1:], nil
}

func orOff(s string, pos config.Pos) (config.Field[config.OffOr[config.Listen]], error) {
	v := config.OffOr[config.Listen]{Off: s == "off"}
	var err error
	if !v.Off {
		v.V, err = config.ParseListen(s)
	}
	return config.At(v, pos), err
}
