package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"midspan/internal/brokers"
	"midspan/internal/certs"
	"midspan/internal/doctor"
	"midspan/internal/plan"
)

func doctorCommand(ui *ui) *cobra.Command {
	var asJSON bool
	var secure plan.UpstreamTLS
	timeout := 10 * time.Second
	c := &cobra.Command{
		Use:   "doctor kafka://HOST:PORT [FILE]",
		Short: "Walk the way to a Kafka cluster from here, and name the hop that is broken",
		Long: `Ask a Kafka broker, or midspan in front of one, for its cluster's nodes; then,
for each: does the name that clients are told resolve here, can it be connected
to, does Kafka answer, and is it that node. With FILE, also: does a route carry
the node; then it is looked at where that route leads. A cluster does not tell of
brokers that are down, nor of any where it wants SASL: the servers and nodes in
FILE are looked at too, and asked if HOST does not answer. Nothing is changed, and
no password is needed.

kafkas:// (or --tls) speaks TLS. The exit code is 0 when nothing is broken, 1 when
something is, 2 when the question could not be put.`,
		Example: "  midspan doctor kafka://kafka1.corp.example.com:9092 midspan.yaml   # on the VM\n" +
			"  midspan doctor kafka://kafka.example.com:19092                     # where the clients are\n" +
			"  midspan doctor kafkas://kafka1.corp.example.com:9094 --ca corp-ca.pem --json",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			q, err := ui.question(args, &secure)
			if err != nil {
				return err
			}
			if timeout <= 0 {
				return errors.New("--timeout: write a time such as 10s")
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			r := doctor.Ask(ctx, doctor.World{Dial: (&net.Dialer{}).DialContext, Lookup: lookup}, q)
			if asJSON {
				err = ui.json(r)
			} else {
				ui.diagnosis(r)
			}
			if err == nil && !r.OK {
				return errNo
			}
			return err
		},
	}
	c.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		}
		return []string{"kafka://", "kafkas://"}, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print all there is as JSON")
	c.Flags().DurationVar(&timeout, "timeout", timeout, "for all of it")
	c.Flags().BoolVar(&secure.On, "tls", false, "speak TLS, as kafkas:// does")
	c.Flags().StringVar(&secure.CA, "ca", "", "who signs the brokers' certificates (`FILE`, PEM); default: whom the system trusts")
	c.Flags().StringVar(&secure.Name, "server-name", "", "the `NAME` to ask for and to find in certificates; default: the host that clients are told")
	c.Flags().BoolVar(&secure.Insecure, "insecure", false, "take any certificate")
	return c
}

func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// question reads the command line.
func (u *ui) question(args []string, secure *plan.UpstreamTLS) (q doctor.Question, err error) {
	if q.Host, q.Port, err = target(args[0], secure); err != nil {
		return q, err
	}
	if !secure.On && (secure.CA != "" || secure.Name != "" || secure.Insecure) {
		return q, errors.New("--ca, --server-name and --insecure are for TLS; write kafkas:// or --tls")
	}
	if secure.On {
		if q.TLS, err = certs.Read(*secure); err != nil {
			return q, err
		}
		q.TLS.MinVersion, q.TLS.ClientSessionCache = tls.VersionTLS12, nil // a session that goes on shows no certificate
	}
	if len(args) == 2 {
		p, _, err := u.load(args[1])
		if err != nil {
			return q, err
		}
		q.Plan = p
	}
	return q, nil
}

// target reads kafka://HOST:PORT; kafkas:// turns TLS on.
func target(text string, secure *plan.UpstreamTLS) (host string, port uint16, err error) {
	bad := fmt.Errorf("%q: write kafka://HOST:PORT, or kafkas:// for TLS", text)
	if strings.Contains(text, ",") {
		return "", 0, fmt.Errorf("%q: write one broker; it knows the others", text)
	}
	t, err := url.Parse(text)
	switch {
	case err != nil, t.Hostname() == "", strings.Trim(t.Path, "/") != "", t.RawQuery != "", t.Fragment != "":
		return "", 0, bad
	case t.User != nil:
		return "", 0, fmt.Errorf("%s: no password is used; leave it out", t.Redacted())
	case t.Scheme == "kafkas":
		secure.On = true
	case t.Scheme != "kafka":
		return "", 0, bad
	}
	n, err := strconv.ParseUint(cmp.Or(t.Port(), "9092"), 10, 16)
	if err != nil || n == 0 {
		return "", 0, bad
	}
	return t.Hostname(), uint16(n), nil
}

// diagnosis prints what the doctor found.
func (u *ui) diagnosis(r doctor.Report) {
	if r.Cluster != nil {
		u.table("BOOTSTRAP CLUSTER NODES CONTROLLER SASL", [][]string{clusterRow(r)})
		fmt.Fprintf(u.out, "\nversions: %s\n", versionsText(r.Cluster.APIs))
	}
	if len(r.Nodes) > 0 {
		fmt.Fprintln(u.out)
		u.table("NODE ADVERTISED LOOKED-AT ADDRESS TIME ANSWER ROUTE", lookedAt(r.Nodes))
	}
	if len(r.Servers) > 0 {
		fmt.Fprintln(u.out)
		u.table("SERVER ADDRESS TIME ANSWER ROUTE", serversLookedAt(r.Servers))
	}
	for _, p := range r.Problems {
		who := "bootstrap"
		switch {
		case p.Node != nil:
			who = "node " + strconv.Itoa(int(*p.Node))
		case p.Server != "":
			who = "server " + p.Server
		}
		fmt.Fprintf(u.out, "\n%s: %s: %s\n  do: %s\n", who, p.Hop, p.Text, p.Do)
	}
	switch {
	case !r.OK:
		u.say("%s: %s", r.Bootstrap, count(len(r.Problems), "problem"))
	case r.Cluster.WantsSASL && len(r.Nodes) == 0:
		u.say("%s answers, and wants SASL: which nodes there are it says only to who logs in; write them as `nodes` into a file, and name that", r.Bootstrap)
	case r.Cluster.WantsSASL:
		u.say("%s answers, and wants SASL: only what the file has was looked at", r.Bootstrap)
	default:
		u.say("%s: nothing is broken, as far as can be seen from here", r.Bootstrap)
	}
}

func clusterRow(r doctor.Report) []string {
	c := r.Cluster
	controller := "-"
	if c.Controller >= 0 {
		controller = strconv.Itoa(int(c.Controller))
	}
	told := 0
	for _, n := range r.Nodes {
		if !n.Untold {
			told++
		}
	}
	nodes := strconv.Itoa(told)
	sasl := "no"
	if c.WantsSASL {
		nodes, sasl = "?", cmp.Or(strings.Join(c.Mechanisms, ","), "wanted")
	}
	return []string{c.By, cmp.Or(c.ID, "?"), nodes, controller, sasl}
}

// versionsText are the APIs by which one knows what a forwarder has to do: those
// that name brokers, and those that are new.
func versionsText(apis []brokers.API) string {
	var parts []string
	newer := 0
	for _, a := range apis {
		switch a.Name() {
		case "":
			newer++
		case "Produce", "Fetch", "Metadata", "FindCoordinator", "DescribeCluster", "ConsumerGroupHeartbeat", "ShareFetch":
			parts = append(parts, fmt.Sprintf("%s %d-%d", a.Name(), a.Min, a.Max))
		}
		if a.Name() == "Fetch" && a.Max >= 16 {
			parts[len(parts)-1] += " (from 16 on its answers name brokers: KIP-951)"
		}
	}
	if newer > 0 {
		parts = append(parts, fmt.Sprintf("and %s newer than this midspan (kafka.unknown_apis)", count(newer, "API")))
	}
	return strings.Join(parts, ", ")
}

// lookedAt are one row for each address of a node.
func lookedAt(nodes []doctor.Node) (rows [][]string) {
	for _, n := range nodes {
		told := doctor.Place{Host: n.Host, Port: n.Port}.String()
		at := n.At.String()
		switch {
		case n.Untold:
			told = "-"
		case at == told:
			at = "same"
		}
		lead := []string{strconv.Itoa(int(n.ID)), told, at}
		route := routeText(n.Cover)
		for _, t := range n.At.Tries {
			addr, took := addressText(t)
			rows = append(rows, append(lead, addr, took, answerText(n.ID, t), route))
			lead, route = []string{"", "", ""}, ""
		}
	}
	return rows
}

// serversLookedAt are one row for each address of a server.
func serversLookedAt(servers []doctor.Server) (rows [][]string) {
	for _, s := range servers {
		name, route := s.At.String(), s.Route
		for _, t := range s.At.Tries {
			addr, took := addressText(t)
			answer := "Kafka"
			if t.Hop != "" || t.WantsSASL {
				answer = answerText(0, t)
			}
			rows = append(rows, []string{name, addr, took, answer, route})
			name, route = "", ""
		}
	}
	return rows
}

func addressText(t doctor.Try) (addr, took string) {
	if !t.Addr.IsValid() {
		return "-", "-"
	}
	return t.Addr.String(), short(time.Duration(t.Took * float64(time.Millisecond)))
}

func answerText(id int32, t doctor.Try) string {
	switch {
	case t.Hop != "":
		return "NO: " + string(t.Hop)
	case t.WantsSASL:
		return "Kafka, wants SASL"
	case t.Is:
		return "node " + strconv.Itoa(int(id))
	}
	return "Kafka, does not say which node"
}

func routeText(c *doctor.Cover) string {
	switch {
	case c == nil:
		return "-"
	case c.Problem != "":
		return "NO"
	}
	return fmt.Sprintf("%s, port %d (%s)", c.Route, c.Port, c.How)
}
