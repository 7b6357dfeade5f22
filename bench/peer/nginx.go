package peer

import (
	"fmt"
	"os"
	"strings"
)

// nginxSettings are what a variant of nginx has.
type nginxSettings struct {
	module   string
	listen   string // after an address
	stream   string // directives in the stream block
	http     string // in the http block
	location string // where HTTP goes to the target
	upstream string // in the target's block, for HTTP
}

func nginxDefault(module string) func([]Route, Limits) string {
	return nginxSettings{module: module}.config
}

// nginxBest is what the manual recommends: large buffers, a queue for each worker,
// and for HTTP connections to the target that are kept (the default is a new one
// for each request), and no files.
func nginxBest(module string) func([]Route, Limits) string {
	return nginxSettings{
		module: module, listen: " reuseport", stream: "  proxy_buffer_size 64k;\n",
		http: "  keepalive_requests 1000000;\n  proxy_buffer_size 64k;\n  proxy_buffers 8 64k;\n  proxy_busy_buffers_size 128k;\n" +
			"  proxy_max_temp_file_size 0;\n",
		location: " proxy_http_version 1.1; proxy_set_header Connection \"\";",
		upstream: " keepalive 64; keepalive_requests 1000000;",
	}.config
}

func (s nginxSettings) config(routes []Route, limits Limits) string {
	var top, stream, http strings.Builder
	for _, r := range routes {
		if r.Mode == ModeHTTP {
			fmt.Fprintf(&http, "\n  upstream r%d { server %s;%s }\n  server {\n    listen %s%s;\n    location / { proxy_pass http://r%[1]d;%[6]s }\n  }\n",
				r.Port, r.To, s.upstream, r.Listen(), s.listen, s.location)
		} else {
			stream.WriteString(s.streamServer(r))
		}
	}
	if stream.Len() > 0 {
		fmt.Fprintf(&top, "load_module %s;\n", s.module)
	}
	if os.Geteuid() == 0 {
		top.WriteString("user root root;\n") // in a user namespace there may be nobody else
	}
	fmt.Fprintf(&top, "worker_processes auto;\ndaemon off;\npid nginx.pid;\nerror_log stderr error;\n\n"+
		"events {\n  worker_connections %d;\n}\n", 2*limits.Conns+len(routes)+100)
	if stream.Len() > 0 {
		fmt.Fprintf(&top, "\nstream {\n  access_log off;\n  proxy_connect_timeout 3s;\n  proxy_timeout 1h;\n%s%s}\n", s.stream, stream.String())
	}
	if http.Len() > 0 {
		fmt.Fprintf(&top, "\nhttp {\n  access_log off;\n  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n%s%s}\n",
			s.http, http.String())
	}
	return top.String()
}

func (s nginxSettings) streamServer(r Route) string {
	listen, more, to, before := "", "", r.To, ""
	switch r.Mode {
	case ModeSNI:
		before = fmt.Sprintf("\n  map $ssl_preread_server_name $r%d { %s %s; }", r.Port, ServerName, r.To)
		more, to = "    ssl_preread on;\n", fmt.Sprintf("$r%d", r.Port)
	case ModeTLS:
		listen, more = " ssl", fmt.Sprintf("    ssl_certificate %s;\n    ssl_certificate_key %[1]s;\n    ssl_protocols TLSv1.2 TLSv1.3;\n", pemFile)
	case ModeProxy: // it sends version 1 alone
		listen, more = " proxy_protocol", "    proxy_protocol on;\n"
	}
	return fmt.Sprintf("%s\n  server {\n    listen %s%s%s;\n%s    proxy_pass %s;\n  }\n", before, r.Listen(), listen, s.listen, more, to)
}
