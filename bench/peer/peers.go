package peer

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"midspan/bench/lab"
)

// All are the peers, in the order in which results show them. Midspan is added
// by Build, and its kernel engine by InKernel.
func All() []*Peer {
	return []*Peer{direct(), iptables(), haproxy(), haproxySplice(), nginx(), nginx64k(), envoy(), ioCopy()}
}

func direct() *Peer {
	return &Peer{Name: "direct", Title: "direct", Kind: None, Family: "direct"}
}

// The engines of midspan.
const (
	Relay = "relay"
	NFT   = "nft"
)

// Build is a binary of midspan.
func Build(name, path string, env []string) *Peer {
	return &Peer{
		Name: name, Title: name, Kind: Midspan, Family: name, Best: true, FDs: 2, Engine: Relay, Routes: true,
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
	return p
}

// KernelName is the name of a build's peer with the kernel engine.
func KernelName(build string) string { return build + "-nft" }

func haproxy() *Peer {
	return &Peer{
		Name: "haproxy", Title: "HAProxy", Kind: Proxy, Family: "haproxy", FDs: 2, Routes: true,
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
		Name: "nginx", Title: "nginx", Kind: Proxy, Family: "nginx", FDs: 2, Routes: true,
		program: "nginx", remedy: "apt-get install nginx", version: []string{"-v"}, needs: []need{{module, "apt-get install libnginx-mod-stream"}},
		file: "nginx.conf", config: nginxConfig(module, "", ""), reload: unix.SIGHUP,
		// Paths in the file are relative to the prefix; the log of the time before
		// it is read is not.
		args: []string{"-p", "./", "-c", "nginx.conf", "-e", "stderr"},
	}
}

func nginx64k() *Peer {
	p := nginx()
	p.Name, p.Title, p.Best = "nginx-64k", "nginx, 64k buffers", true
	p.config = nginxConfig(p.needs[0].file, " reuseport", "  proxy_buffer_size 64k;\n")
	return p
}

func ioCopy() *Peer {
	return &Peer{
		Name: "iocopy", Title: "Go, io.Copy", Kind: Proxy, Family: "iocopy", FDs: 6,
		file: "routes.txt", config: ioCopyConfig, args: []string{"iocopy", "routes.txt"},
	}
}

func envoy() *Peer {
	return &Peer{
		Name: "envoy", Title: "Envoy", Kind: Proxy, Family: "envoy", Best: true, FDs: 2, Routes: true, Optional: true,
		program: "envoy", version: []string{"--version"},
		file: "envoy.yaml", config: envoyConfig,
		args: []string{"-c", "envoy.yaml", "--disable-hot-restart", "--log-level", "error", "--file-flush-interval-msec", "60000"},
	}
}

func iptables() *Peer {
	return &Peer{
		Name: "iptables", Title: "iptables", Kind: Kernel, Family: "iptables", Best: true, Routes: true,
		program: "iptables", remedy: "apt-get install iptables", version: []string{"--version"},
		config: iptablesConfig, apply: iptablesApply, extend: iptablesExtend,
	}
}

func haproxyConfig(options string) func([]Route, Limits) string {
	return func(routes []Route, limits Limits) string {
		var b strings.Builder
		fmt.Fprintf(&b, "global\n  maxconn %d\n", limits.Conns)
		if options != "" {
			// The default, a quarter of maxconn, needs more files than there may be.
			fmt.Fprintf(&b, "  maxpipes %d\n", min(1000, limits.Conns/16))
		}
		b.WriteString("\ndefaults\n  mode tcp\n  timeout connect 3s\n  timeout client 1h\n  timeout server 1h\n" + options)
		for _, r := range routes {
			fmt.Fprintf(&b, "\nlisten r%d\n  bind %s\n  server target %s\n", r.Port, r.Listen(), r.To)
		}
		return b.String()
	}
}

func nginxConfig(module, listen, options string) func([]Route, Limits) string {
	return func(routes []Route, limits Limits) string {
		var b strings.Builder
		fmt.Fprintf(&b, "load_module %s;\n", module)
		if os.Geteuid() == 0 {
			b.WriteString("user root root;\n") // in a user namespace there may be nobody else
		}
		fmt.Fprintf(&b, "worker_processes auto;\ndaemon off;\npid nginx.pid;\nerror_log stderr error;\n\n"+
			"events {\n  worker_connections %d;\n}\n\n"+
			"stream {\n  access_log off;\n  proxy_connect_timeout 3s;\n  proxy_timeout 1h;\n%s", 2*limits.Conns+len(routes)+100, options)
		for _, r := range routes {
			fmt.Fprintf(&b, "\n  server {\n    listen %s%s;\n    proxy_pass %s;\n  }\n", r.Listen(), listen, r.To)
		}
		b.WriteString("}\n")
		return b.String()
	}
}

func ioCopyConfig(routes []Route, _ Limits) string {
	var b strings.Builder
	for _, r := range routes {
		fmt.Fprintf(&b, "%s %s\n", r.Listen(), r.To)
	}
	return b.String()
}

func midspanConfig(engine string) func([]Route, Limits) string {
	return func(routes []Route, _ Limits) string {
		var b strings.Builder
		b.WriteString("log: off\n")
		if engine != Relay { // the default
			fmt.Fprintf(&b, "defaults: { engine: %s }\n", engine)
		}
		b.WriteString("routes:\n")
		for _, r := range routes {
			fmt.Fprintf(&b, "  r%d: { listen: %q, to: %q }\n", r.Port, r.Listen(), r.To)
		}
		return b.String()
	}
}

func envoyConfig(routes []Route, limits Limits) string {
	var b strings.Builder
	b.WriteString("static_resources:\n  listeners:\n")
	for _, r := range routes {
		fmt.Fprintf(&b, `  - name: r%d
    address: { socket_address: { address: %s, port_value: %d } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: r%d
          cluster: r%d
`, r.Port, lab.ForwarderIP, r.Port, r.Port, r.Port)
	}
	b.WriteString("  clusters:\n")
	for _, r := range routes {
		host, port, _ := strings.Cut(r.To, ":")
		fmt.Fprintf(&b, `  - name: r%d
    type: STATIC
    connect_timeout: 3s
    circuit_breakers: { thresholds: [{ max_connections: %d, max_pending_requests: %d }] }
    load_assignment:
      cluster_name: r%d
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: %s, port_value: %s } } }
`, r.Port, limits.Conns, limits.Conns, r.Port, host, port)
	}
	return b.String()
}
