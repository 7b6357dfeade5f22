package peer

import (
	"slices"

	"golang.org/x/sys/unix"
)

// All are the peers, in the order in which results show them. Midspan is added
// by Build, and its kernel engine by InKernel.
func All() []*Peer {
	return []*Peer{direct(), iptables(), haproxy(), haproxySplice(), nginx(), nginx64k(), envoy(), ioCopy(), kafkaProxy()}
}

func direct() *Peer {
	return &Peer{Name: "direct", Title: "direct", Kind: None, Family: "direct", Modes: []Mode{ModeTCP, ModeHTTP, ModeKafka}}
}

var everyMode = []Mode{ModeTCP, ModeSNI, ModeHTTP, ModeTLS, ModeProxy}

// The engines of midspan.
const (
	Relay = "relay"
	NFT   = "nft"
)

// Build is a binary of midspan.
func Build(name, path string, env []string) *Peer {
	return &Peer{
		Name: name, Title: name, Kind: Midspan, Family: name, Best: true, FDs: 2, Engine: Relay, Routes: true, Modes: append(everyMode[:len(everyMode):len(everyMode)], ModeKafka),
		program: path, remedy: "make build", version: []string{"version"},
		// Each in its lab's directory: what one that was killed leaves is not to be
		// found by the next, and two may run at the same time.
		env:  append([]string{"MIDSPAN_CONTROL=control.sock"}, env...),
		file: "midspan.yaml", config: midspanConfig(Relay), args: []string{"run", "midspan.yaml"}, reload: unix.SIGHUP,
		troubles: midspanTroubles,
	}
}

// InKernel is the same binary with its kernel engine.
func InKernel(name, path string, env []string) *Peer {
	p := Build(name, path, env)
	p.Name, p.Title, p.Family = KernelName(name), name+", nft", KernelName(name)
	p.Kind, p.FDs, p.Engine, p.config = Kernel, 0, NFT, midspanConfig(NFT)
	p.Modes = []Mode{ModeTCP}
	return p
}

// Plain is the same binary where it does nothing with bytes that others read: what
// looking at names, or at Kafka's frames, costs.
func Plain(name, path string, env []string) *Peer {
	p := Build(name, path, env)
	p.Name, p.Title, p.Family, p.Best = PlainName(name), name+", tcp", PlainName(name), false
	p.Kind, p.Modes, p.Routes = Proxy, []Mode{ModeSNI, ModeKafka}, false
	p.config = func(routes []Route, limits Limits) string {
		routes = slices.Clone(routes)
		for i := range routes {
			routes[i].Mode = ModeTCP
		}
		return midspanConfig(Relay)(routes, limits)
	}
	return p
}

// PlainName is the name of a build's peer without a look at names.
func PlainName(build string) string { return build + "-tcp" }

// KernelName is the name of a build's peer with the kernel engine.
func KernelName(build string) string { return build + "-nft" }

func haproxy() *Peer {
	return &Peer{
		Name: "haproxy", Title: "HAProxy", Kind: Proxy, Family: "haproxy", FDs: 2, Routes: true, Modes: everyMode,
		program: "haproxy", remedy: "apt-get install haproxy", version: []string{"-v"},
		// A master and a worker, as its systemd unit has it; -db keeps it in the
		// foreground.
		file: "haproxy.cfg", config: haproxyConfig(""), args: []string{"-W", "-db", "-f", "haproxy.cfg"}, reload: unix.SIGUSR2,
	}
}

func haproxySplice() *Peer {
	p := haproxy()
	p.Name, p.Title, p.Best = "haproxy-splice", "HAProxy, splice", true
	p.config = haproxyConfig("  option splice-request\n  option splice-response\n")
	return p
}

func nginx() *Peer {
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
	return &Peer{
		Name: "nginx", Title: "nginx", Kind: Proxy, Family: "nginx", FDs: 2, Routes: true, Modes: everyMode,
		program: "nginx", remedy: "apt-get install nginx", version: []string{"-v"}, needs: []need{{module, "apt-get install libnginx-mod-stream"}},
		file: "nginx.conf", config: nginxDefault(module), reload: unix.SIGHUP,
		// Paths in the file are relative to the prefix; the log of the time before
		// it is read is not.
		args: []string{"-p", "./", "-c", "nginx.conf", "-e", "stderr"},
	}
}

func nginx64k() *Peer {
	p := nginx()
	p.Name, p.Title, p.Best = "nginx-64k", "nginx, 64k buffers", true
	p.config = nginxBest(p.needs[0].file)
	return p
}

func ioCopy() *Peer {
	return &Peer{
		Name: "iocopy", Title: "Go, io.Copy", Kind: Proxy, Family: "iocopy", FDs: 6, Modes: []Mode{ModeTCP},
		file: "routes.txt", config: ioCopyConfig, args: []string{"iocopy", "routes.txt"},
	}
}

func envoy() *Peer {
	return &Peer{
		Name: "envoy", Title: "Envoy", Kind: Proxy, Family: "envoy", Best: true, FDs: 2, Routes: true, Modes: []Mode{ModeTCP, ModeSNI, ModeHTTP, ModeTLS}, Optional: true,
		program: "envoy", version: []string{"--version"},
		file: "envoy.yaml", config: envoyConfig,
		args: []string{"-c", "envoy.yaml", "--disable-hot-restart", "--log-level", "error", "--file-flush-interval-msec", "60000"},
	}
}

func iptables() *Peer {
	return &Peer{
		Name: "iptables", Title: "iptables", Kind: Kernel, Family: "iptables", Best: true, Routes: true, Modes: []Mode{ModeTCP},
		program: "iptables", remedy: "apt-get install iptables", version: []string{"--version"},
		config: iptablesConfig, apply: iptablesApply, extend: iptablesExtend,
	}
}
