package main

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"midspan/bench/peer"
)

// options are what the command line asks for.
type options struct {
	rounds    int
	window    time.Duration
	warmup    time.Duration
	quick     bool
	check     bool
	out       string // "": see runner.place
	complete  bool   // nothing is left out
	peers     []*peer.Peer
	allPeers  bool         // none were chosen
	pair      []*peer.Peer // see pairAll
	workloads []workload
	left      []string // what is not there and was not asked for
}

// quickPeers take part in a quick run.
var quickPeers = []string{"direct", "iptables", "haproxy", "haproxy-splice", "nginx-64k", "midspan", "midspan-nft", "midspan-tcp"}

// build is a value of the flag --midspan.
type build struct {
	name, path string
	env        []string
}

// parseBuild reads PATH, or NAME=PATH[,ENV=VALUE...].
func parseBuild(text string) (build, error) {
	words := strings.Split(text, ",")
	b := build{name: "midspan", path: words[0], env: words[1:]}
	if name, path, ok := strings.Cut(words[0], "="); ok {
		b.name, b.path = name, path
	}
	for _, e := range b.env {
		if !strings.Contains(e, "=") {
			return b, fmt.Errorf("%q in %q is no NAME=VALUE", e, text)
		}
	}
	if b.name == "" || b.path == "" {
		return b, fmt.Errorf("%q is neither PATH nor NAME=PATH[,ENV=VALUE...]", text)
	}
	var err error
	b.path, err = filepath.Abs(b.path) // processes start in other directories
	return b, err
}

func parseOptions(args []string, getenv func(string) string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := f.String("only", "", "workloads, separated by commas (default all): "+strings.Join(names(workloads()), ", "))
	peers := f.String("peers", "", "peers, separated by commas (default all): "+strings.Join(peerNames(peer.All()), ", ")+", midspan, midspan-nft, midspan-tcp")
	pair := f.String("pair", "", "two peers, separated by a comma: compare them by many short slices in turn, and write no files; --rounds is how often all is made anew")
	seconds := f.Float64("seconds", 0, "what a run is measured for (default 1.2; quick 0.5; a slice of --pair 0.25)")
	f.IntVar(&o.rounds, "rounds", 0, "how often each run is made (default 7; quick 2)")
	f.BoolVar(&o.quick, "quick", getenv("BENCH") == "quick", "few peers, workloads and rounds; also BENCH=quick")
	f.BoolVar(&o.check, "check", false, "measure nothing: check every byte by its SHA-256, both ways, through every peer")
	f.StringVar(&o.out, "out", "", "directory for results.json, results.md and results.svg (default results-local; a complete run without errors: this one, bench)")
	var builds []build
	f.Func("midspan", "binary of midspan (default ../bin/midspan); or NAME=PATH[,ENV=VALUE...], repeatable, to compare builds; a build's kernel engine is the peer NAME-nft, and NAME-tcp is one that looks at no names", func(text string) error {
		b, err := parseBuild(text)
		builds = append(builds, b)
		return err
	})
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("%q is no flag; see -h", f.Arg(0))
	}
	if b := getenv("BENCH"); b != "" && b != "quick" {
		return nil, fmt.Errorf("BENCH is %q; it may be quick, or not set", b)
	}
	var errs []error
	given := map[string]bool{}
	f.Visit(func(x *flag.Flag) { given[x.Name] = true })
	for name, wrong := range map[string]bool{"rounds": o.rounds <= 0, "seconds": *seconds <= 0, "only": len(split(*only)) == 0, "peers": len(split(*peers)) == 0} {
		if given[name] && wrong {
			errs = append(errs, fmt.Errorf("--%s %s leaves nothing to do", name, f.Lookup(name).Value))
		}
	}
	o.defaults(*seconds)
	if given["pair"] {
		*peers = *pair
		o.warmup = sliceWarmup
		if !given["seconds"] {
			o.window = sliceWindow
		}
	}
	o.complete = !o.quick && o.rounds >= 5 && !given["seconds"] && !given["only"] && !given["peers"] && !given["midspan"]
	errs = append(errs, o.choosePeers(*peers, builds), o.chooseWorkloads(*only))
	if err := errors.Join(errs...); err != nil || !given["pair"] {
		return o, err
	}
	return o, o.choosePair(*pair)
}

func (o *options) defaults(seconds float64) {
	if o.rounds <= 0 {
		o.rounds = 7
		if o.quick {
			o.rounds = 2
		}
	}
	if seconds <= 0 {
		seconds = 1.2
		if o.quick {
			seconds = 0.5
		}
	}
	o.window = time.Duration(seconds * float64(time.Second))
	o.warmup = min(300*time.Millisecond, o.window)
}

// choosePeers keeps the fixed order. Builds that were given take part in any
// case, but the default one only when it is wanted; and so do kernel engines.
func (o *options) choosePeers(list string, builds []build) error {
	wanted := split(list)
	all := list == ""
	o.allPeers = all
	if all && o.quick {
		wanted, all = quickPeers, false
	}
	var given []string
	for _, b := range builds {
		given = append(given, b.name)
	}
	if !slices.Contains(given, "midspan") {
		b, err := parseBuild("../bin/midspan")
		if err != nil {
			return err
		}
		builds = append(builds, b)
	}
	known := peer.All()
	for _, b := range builds {
		for _, p := range []*peer.Peer{peer.Build(b.name, b.path, b.env), peer.InKernel(b.name, b.path, b.env), peer.Plain(b.name, b.path, b.env)} {
			if slices.Contains(peerNames(known), p.Name) {
				return fmt.Errorf("a peer is called %q already; give the build another name", p.Name)
			}
			known = append(known, p)
		}
	}
	for _, p := range known {
		if p.Optional && all && p.Missing() != nil {
			o.left = append(o.left, p.Name)
			continue
		}
		extra := slices.ContainsFunc(builds, func(b build) bool {
			return b.name != "midspan" && (p.Name == peer.KernelName(b.name) || p.Name == peer.PlainName(b.name))
		})
		if all && !extra || slices.Contains(wanted, p.Name) || slices.Contains(given, p.Name) {
			o.peers = append(o.peers, p)
		}
	}
	return unknown("peer", wanted, peerNames(known))
}

func (o *options) chooseWorkloads(list string) error {
	wanted := split(list)
	for _, w := range workloads() {
		if slices.Contains(wanted, w.Name) || list == "" && (w.quick || !o.quick) {
			o.workloads = append(o.workloads, w)
		}
	}
	return unknown("workload", wanted, names(workloads()))
}

// missing tells what has to be installed, or left out.
func (o *options) missing() error {
	var errs []error
	for _, p := range o.peers {
		if err := p.Missing(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
		}
	}
	if slices.ContainsFunc(o.workloads, func(w workload) bool { return w.wrk != nil }) {
		if _, err := peer.Find("wrk"); err != nil {
			errs = append(errs, errors.New("wrk is missing: apt-get install wrk"))
		}
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New("install what is missing, or leave it out with --peers"))
	}
	return errors.Join(errs...)
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func unknown(what string, wanted, known []string) error {
	for _, w := range wanted {
		if !slices.Contains(known, w) {
			return fmt.Errorf("no %s is called %q; there are %s", what, w, strings.Join(known, ", "))
		}
	}
	return nil
}

func names(list []workload) []string {
	var all []string
	for _, w := range list {
		all = append(all, w.Name)
	}
	return all
}

func peerNames(list []*peer.Peer) []string {
	var all []string
	for _, p := range list {
		all = append(all, p.Name)
	}
	return all
}
