package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// What `midspan import` prints must mean what the other program did: both run
// side by side, in front of the same servers, and are asked the same things.

const (
	theirs = "127.0.0.2" // where HAProxy or nginx listens
	ours   = "127.0.0.1"
	caller = "127.0.0.9"
)

const sameHAProxy = `global
    ssl-server-verify none
defaults
    timeout connect 3s
    timeout client 20s
    timeout server 20s

frontend names
    mode tcp
    bind @:9001
    tcp-request inspect-delay 2s
    tcp-request content accept if { req.ssl_hello_type 1 }
    acl b req.ssl_sni -i b.example.com
    use_backend tls_a if { req.ssl_sni -i a.example.com }
    use_backend tls_b if b or { req.ssl_sni -m end .wild.example.com }
    use_backend tls_a if { req.ssl_sni -i x.wild.example.com }
    default_backend tls_c
frontend strict
    mode tcp
    bind @:9002
    tcp-request inspect-delay 2s
    tcp-request content accept if { req.ssl_hello_type 1 }
    tcp-request content reject
    use_backend tls_a if { req.ssl_sni -i a.example.com }
    default_backend tls_c
backend tls_a
    mode tcp
    server s 127.0.0.1:7001
backend tls_b
    mode tcp
    server s 127.0.0.1:7002
backend tls_c
    mode tcp
    server s 127.0.0.1:7003

listen ends
    mode tcp
    bind @:9003 ssl crt CERT
    server s 127.0.0.1:7011
listen begins
    mode tcp
    bind @:9004
    server s 127.0.0.1:7001 ssl sni str(begun.example.com)
listen guarded
    mode tcp
    bind @:9005
    tcp-request connection accept if { src 127.0.0.9 }
    tcp-request connection reject
    server s 127.0.0.1:7011
listen shut
    mode tcp
    bind @:9006
    tcp-request connection reject if { src 127.0.0.0/28 } 
    server s 127.0.0.1:7011
listen out
    mode tcp
    bind @:9007
    server s @:9008 send-proxy-v2
listen in
    mode tcp
    bind @:9008 accept-proxy
    server s 127.0.0.1:7012 send-proxy

frontend web
    mode http
    bind @:9010
    bind @:9011 ssl crt CERT
    option forwardfor
    http-request set-header X-Forwarded-Proto https if { ssl_fc }
    http-request set-header X-Forwarded-Proto http if !{ ssl_fc }
    http-request set-header X-Env prod
    http-request del-header X-Drop
    http-response set-header X-Out there
    http-response del-header Server
    acl api path_beg /api
    use_backend api if { hdr(host) -i app.example.com } api
    use_backend app if { hdr(host) -i app.example.com www.example.com }
    use_backend wild if { hdr_end(host) -i .wild.example.com } || { path_beg /wild/ }
    use_backend app if { path_beg /wild/late }
    default_backend rest
backend app
    mode http
    server s 127.0.0.1:7021
backend api
    mode http
    http-request replace-path /api/(.*) /v1/\1
    server s 127.0.0.1:7022
backend wild
    mode http
    server s 127.0.0.1:7023
backend rest
    mode http
    server s 127.0.0.1:7024
`

const sameNginx = `stream {
    map $ssl_preread_server_name $to {
        hostnames;
        a.example.com      tls_a;
        .wild.example.com  127.0.0.1:7002;
        default            127.0.0.1:7003;
    }
    map $ssl_preread_server_name $strict { a.example.com 127.0.0.1:7001; }
    upstream tls_a { server 127.0.0.1:7001; }
    server { listen @:9001; ssl_preread on; proxy_pass $to; }
    server { listen @:9002; ssl_preread on; proxy_pass $strict; }
    server { listen @:9003 ssl; ssl_certificate CERT; ssl_certificate_key CERT; proxy_pass 127.0.0.1:7011; }
    server { listen @:9004; proxy_pass 127.0.0.1:7001; proxy_ssl on; proxy_ssl_server_name on; proxy_ssl_name begun.example.com; }
    server { listen @:9005; allow 127.0.0.9; deny all; proxy_pass 127.0.0.1:7011; }
    server { listen @:9006; deny 127.0.0.0/28; proxy_pass 127.0.0.1:7011; }
    server { listen @:9007; proxy_pass @:9008; proxy_protocol on; }
    server { listen @:9008 proxy_protocol; set_real_ip_from 127.0.0.0/8; proxy_pass 127.0.0.1:7012; proxy_protocol on; }
}
http {
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Env prod;
    proxy_set_header X-Drop "";
    add_header X-Out there always;
    proxy_hide_header X-Power;
    server {
        listen @:9010 default_server;
        listen @:9011 ssl default_server;
        ssl_certificate CERT;
        ssl_certificate_key CERT;
        location / { proxy_pass http://127.0.0.1:7024; }
        location /wild/ { proxy_pass http://127.0.0.1:7023; }
    }
    server {
        listen @:9010;
        listen @:9011 ssl;
        ssl_certificate CERT;
        ssl_certificate_key CERT;
        server_name app.example.com www.example.com;
        location / { proxy_pass http://127.0.0.1:7021; }
        location /api/ { proxy_pass http://127.0.0.1:7022/v1/; }
        location ^~ /api/exact { proxy_pass http://127.0.0.1:7022/; }
    }
    server {
        listen @:9010;
        listen @:9011 ssl;
        ssl_certificate CERT;
        ssl_certificate_key CERT;
        server_name *.wild.example.com;
        location / { proxy_pass http://127.0.0.1:7023; }
    }
}
`

// TestImportedHAProxy and TestImportedNginx hold what is imported to the original.
func TestImportedHAProxy(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	program := rig.Need(t, "haproxy", "haproxy")
	sameAs(t, "haproxy", sameHAProxy, append(slices.Clone(samePaths), "/api"), func(file string) rig.Spec {
		return rig.Spec{Program: program, Args: []string{"-db", "-f", file}}
	})
}

func TestImportedNginx(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	program := rig.Need(t, "nginx", "nginx")
	module := rig.NeedFile(t, "/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream")
	top := "load_module " + module + ";\ndaemon off; master_process off; pid nginx.pid; error_log stderr;\nevents { worker_connections 512; }\n"
	if os.Geteuid() == 0 {
		top = "user root root;\n" + top
	}
	sameAs(t, "nginx", top+sameNginx, samePaths, func(file string) rig.Spec {
		return rig.Spec{Program: program, Args: []string{"-p", filepath.Dir(file) + "/", "-c", file, "-e", "stderr"}}
	})
}

// samePaths are asked for at every host. nginx alone redirects /api to the location
// /api/ that it has.
var samePaths = []string{"/", "/api/", "/api/x?y=z", "/apix", "/api/exact", "/wild/", "/wild/late", "/Wild/"}

// sameAs runs text as it is and as midspan has it, and asks both.
func sameAs(t *testing.T, format, text string, paths []string, run func(file string) rig.Spec) {
	dir := t.TempDir()
	certificate, key := rig.SelfSigned(t)
	both := filepath.Join(dir, "both.pem")
	text = strings.ReplaceAll(text, "CERT", both)
	file := filepath.Join(dir, "their.conf")
	for name, content := range map[string][]byte{both: append(slices.Clone(certificate), key...), file: []byte(strings.ReplaceAll(text, "@", theirs))} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	sameServers(t, pair)
	p := rig.Start(t, run(file))
	rig.Until(t, rig.Patience, format+" listens", func() bool {
		if !p.Alive() {
			t.Fatalf("%s has ended:\n%s", format, p.Stderr())
		}
		return rig.Listens(nil, theirs+":9011") && rig.Listens(nil, theirs+":9001")
	})
	rig.Run(t, rig.Import(t, format, strings.ReplaceAll(text, "@", ours)))
	answered := 0
	for _, q := range sameQuestions(paths) {
		want, got := q.ask(theirs), q.ask(ours)
		if got != want {
			t.Errorf("%s: %s says\n  %q\nmidspan\n  %q", q.name, format, want, got)
		}
		if want != turnedAway {
			answered++
		}
	}
	if answered < 30 {
		t.Errorf("only %d questions had an answer", answered)
	}
}

// sameServers start those that the files name. Each says who it is, and what it
// was asked.
func sameServers(t *testing.T, pair tls.Certificate) {
	listen := func(port int) net.Listener {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	serve := func(port int, say func(c net.Conn)) {
		l := listen(port)
		go func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				go func() {
					defer func() { _ = c.Close() }()
					_ = c.SetDeadline(time.Now().Add(30 * time.Second))
					say(c)
				}()
			}
		}()
	}
	for port := 7001; port <= 7003; port++ {
		serve(port, func(c net.Conn) {
			first := make([]byte, 1)
			if _, err := io.ReadFull(c, first); err != nil || first[0] != 22 { // no handshake record
				_, _ = fmt.Fprintf(c, "plain at %d", port)
				return
			}
			s := tls.Server(&begun{c, first}, &tls.Config{Certificates: []tls.Certificate{pair}})
			if s.Handshake() == nil {
				_, _ = fmt.Fprintf(s, "TLS at %d for %q", port, s.ConnectionState().ServerName)
				_ = s.Close()
			}
		})
	}
	serve(7011, func(c net.Conn) { _, _ = io.WriteString(c, "hello from 7011") })
	serve(7012, func(c net.Conn) { // tells the PROXY header, without the ports of this try
		line, _ := bufio.NewReader(c).ReadString('\n')
		if f := strings.Fields(line); len(f) > 3 {
			line = strings.Join(f[:3], " ")
		}
		_, _ = fmt.Fprintf(c, "header %q", line)
	})
	for port := 7021; port <= 7024; port++ {
		web := &http.Server{ReadHeaderTimeout: rig.Patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Server", "secret")
			w.Header().Set("X-Power", "secret")
			_, _ = fmt.Fprintf(w, "%d %s %s for=%q proto=%q env=%q drop=%q", port, strings.ToLower(r.Host), r.RequestURI, // nginx's $host is in lower case
				strings.Join(r.Header.Values("X-Forwarded-For"), ", "), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Env"), r.Header.Get("X-Drop"))
		})}
		go func() { _ = web.Serve(listen(port)) }()
		t.Cleanup(func() { _ = web.Close() })
	}
}

// begun is a connection of which a byte has been read.
type begun struct {
	net.Conn
	first []byte
}

func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}

// turnedAway is an answer: whichever way it was said.
const turnedAway = "turnedAway"

// question is asked of a proxy at an address; the answer is text.
type question struct {
	name string
	ask  func(host string) string
}

func sameQuestions(paths []string) (all []question) {
	add := func(name string, ask func(host string) string) { all = append(all, question{name, ask}) }
	for _, port := range []int{9001, 9002} {
		for _, name := range []string{"a.example.com", "A.Example.COM", "b.example.com", "x.wild.example.com", "y.x.wild.example.com", "wild.example.com", "other.example.com", ""} {
			add(fmt.Sprintf("name %q at %d", name, port), func(host string) string { return said(handshake(host, port, name)) })
		}
		add(fmt.Sprintf("no TLS at %d", port), func(host string) string { return saying("GET / HTTP/1.0\r\n\r\n")(dialSame(host, port, caller)) })
	}
	add("TLS ends", func(host string) string { return said(handshake(host, 9003, "a.example.com")) })
	add("TLS begins", func(host string) string { return said(dialSame(host, 9004, caller)) })
	for _, port := range []int{9005, 9006} {
		for _, from := range []string{caller, "127.0.0.8", "127.0.0.99"} {
			add(fmt.Sprintf("from %s at %d", from, port), func(host string) string { return said(dialSame(host, port, from)) })
		}
	}
	add("a PROXY header, out and in", func(host string) string { return said(dialSame(host, 9007, caller)) })
	add("no PROXY header", func(host string) string { return saying("hello\r\n")(dialSame(host, 9008, caller)) })
	for port, scheme := range map[int]string{9010: "http", 9011: "https"} {
		for _, name := range []string{"app.example.com", "APP.example.com", "www.example.com", "a.wild.example.com", "wild.example.com", "other.example.com"} {
			for _, path := range paths {
				add(fmt.Sprintf("%s://%s%s", scheme, name, path), func(host string) string { return fetch(scheme, host, port, name, path) })
			}
		}
	}
	return all
}

func dialSame(host string, port int, from string) (net.Conn, error) {
	d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return d.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
}

func handshake(host string, port int, name string) (net.Conn, error) {
	c, err := dialSame(host, port, caller)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	s := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}) // the certificate is nobody's
	if err := s.Handshake(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return s, nil
}

// said is all that comes on a connection.
func said(c net.Conn, err error) string { return saying("")(c, err) }

// saying is said after something was sent.
func saying(text string) func(c net.Conn, err error) string {
	return func(c net.Conn, err error) string {
		if err != nil {
			return turnedAway
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c, text)
		all, _ := io.ReadAll(c)
		if len(all) == 0 {
			return turnedAway
		}
		return string(all)
	}
}

// fetch is the answer to a request with the headers that the files are about.
func fetch(scheme, host string, port int, name, path string) string {
	web := &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: false,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dialSame(host, port, caller) },
	}
	r, err := http.NewRequest(http.MethodGet, scheme+"://"+name+path, nil)
	if err != nil {
		return err.Error()
	}
	r.Header.Set("X-Drop", "me")
	r.Header.Set("X-Env", "mine")
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	r.Header.Set("X-Forwarded-Proto", "gopher")
	answer, err := web.RoundTrip(r)
	if err != nil {
		return turnedAway
	}
	defer func() { _ = answer.Body.Close() }()
	body, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK {
		return turnedAway
	}
	power, out := answer.Header.Get("X-Power"), answer.Header.Get("X-Out")
	return fmt.Sprintf("%s; out=%q power=%q", body, out, power)
}
