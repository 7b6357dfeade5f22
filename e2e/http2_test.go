package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"midspan/e2e/rig"
)

// h2Backend is a server that midspan speaks HTTP with in one of its ways: it says
// which version it was asked in, and sends back what is posted to it.
type h2Backend struct {
	name     string
	addr     string
	settings string
	version  string // as the server sees it
}

// speaking is a Go server of these protocols, with TLS where it has a certificate.
func speaking(t *testing.T, certificate *tls.Certificate, set func(*http.Protocols)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	set(&protocols)
	server := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // as HTTP/2 always is
		w.Header().Set("Served-In", r.Proto)
		w.Header().Set("Trailer", "Sum")
		hash := sha256.New()
		n, err := io.Copy(io.MultiWriter(w, hash), r.Body)
		if n == 0 {
			fmt.Fprintf(w, "%s %s", r.Method, r.URL)
		}
		w.Header().Set("Sum", fmt.Sprintf("%x %v", hash.Sum(nil), err))
	})}
	serve := server.Serve
	if certificate != nil {
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*certificate}}
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	go func() { _ = serve(l) }() // it ends by Close
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

func h2Backends(t *testing.T, ca *rig.CA) []h2Backend {
	t.Helper()
	id := ca.Issue("server.internal")
	certificate := id.Load(t)
	nginx := rig.Addr(t, "127.0.0.1")
	rig.Web(t, nginx, fmt.Sprintf("server { listen %s ssl http2; ssl_certificate %s; ssl_certificate_key %s; "+
		"location / { add_header Served-In $server_protocol; return 200 \"$request_method $request_uri\"; } }", nginx, id.Cert, id.Key))
	upstream := fmt.Sprintf("upstream_tls: { name: server.internal, ca: %q }", ca.File)
	return []h2Backend{
		{"HTTP/1.1", speaking(t, nil, func(p *http.Protocols) { p.SetHTTP1(true) }), "", "HTTP/1.1"},
		{"h2c", speaking(t, nil, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }), "http: { protocol: h2 }", "HTTP/2.0"},
		{"h2", speaking(t, &certificate, func(p *http.Protocols) { p.SetHTTP2(true) }), "http: { protocol: h2 }\n    " + upstream, "HTTP/2.0"},
		{"HTTP/1.1 in TLS", speaking(t, &certificate, func(p *http.Protocols) { p.SetHTTP1(true) }), upstream, "HTTP/1.1"},
		{"nginx h2", nginx, "http: { protocol: h2 }\n    " + upstream, "HTTP/2.0"},
	}
}

// h2Clients are curl's ways to ask.
var h2Clients = []struct {
	name, scheme, flag, version string
}{
	{"HTTP/1.1", "http", "--http1.1", "1.1"},
	{"prior knowledge", "http", "--http2-prior-knowledge", "2"},
	{"HTTP/1.1 in TLS", "https", "--http1.1", "1.1"},
	{"h2", "https", "--http2", "2"},
}

// TestHTTP2 asks with curl in every way, through to servers that are asked in
// every way.
func TestHTTP2(t *testing.T) {
	ca := rig.NewCA(t, "e2e")
	own := ca.Issue("web.example.com")
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, rig.Bytes(3, 5<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, back := range h2Backends(t, ca) {
		t.Run(back.name, func(t *testing.T) {
			f, addr := httpFile(t, "    to: %q\n    %s\n", back.addr, back.settings)
			secure := rig.Addr(t, "127.0.0.1")
			f.Write("routes:\n  plain:\n    mode: http\n    listen: %q\n    to: %q\n    %s\n  secure:\n    mode: http\n    listen: %q\n    to: %[2]q\n    tls: %[5]q\n    %[3]s\n",
				addr, back.addr, back.settings, secure, own.Cert)
			rig.Run(t, f)
			for _, client := range h2Clients {
				at := addr
				if client.scheme == "https" {
					at = secure
				}
				_, port, _ := net.SplitHostPort(at)
				url := client.scheme + "://web.example.com:" + port + "/path?q=1"
				base := []string{client.flag, "--cacert", ca.File, "--resolve", rig.Resolve("web.example.com", at), "-w", "|%{http_version} %{http_code} %header{served-in}"}
				out, code := rig.Curl(t, append(base, url)...)
				if want := "GET /path?q=1|" + client.version + " 200 " + back.version; code != 0 || out != want {
					t.Errorf("%s: %d, %q; want %q", client.name, code, out, want)
				}
				if strings.HasPrefix(back.name, "nginx") {
					continue // it does not send back what it gets
				}
				file := filepath.Join(t.TempDir(), "back")
				out, code = rig.Curl(t, append(base, "--data-binary", "@"+body, "-o", file, url)...)
				if string(readIfThere(file)) != string(readIfThere(body)) || code != 0 || !strings.Contains(out, " 200 ") {
					t.Errorf("%s: 5 MiB posted: %d, %q, %d bytes came back", client.name, code, out, len(readIfThere(file)))
				}
			}
		})
	}
}

// TestHTTP2Trailers: what follows a body arrives, also in gRPC's way, from h2 to
// h2, and over HTTP/1.1; with many requests on one connection.
func TestHTTP2Trailers(t *testing.T) {
	ca := rig.NewCA(t, "e2e")
	own := ca.Issue("web.example.com")
	for _, back := range h2Backends(t, ca)[:3] {
		t.Run(back.name, func(t *testing.T) {
			f, addr := httpFile(t, "    to: %q\n    tls: %q\n    %s\n", back.addr, own.Cert, back.settings)
			rig.Run(t, f)
			client := &http.Client{Timeout: rig.Patience, Transport: &http.Transport{
				ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: ca.Pool, ServerName: "web.example.com"},
			}}
			defer client.CloseIdleConnections()
			var all sync.WaitGroup
			for i := range 64 {
				all.Go(func() {
					if err := trailed(client, "https://"+addr+"/", i); err != nil {
						t.Errorf("request %d: %v", i, err)
					}
				})
			}
			all.Wait()
		})
	}
}

// trailed posts some bytes and checks their sum in the trailer.
func trailed(client *http.Client, url string, seed int) error {
	body := string(rig.Bytes(uint64(seed), 1+seed*3000))
	resp, err := client.Post(url, "application/octet-stream", io.NopCloser(strings.NewReader(body))) // of no known length
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	back, err := io.ReadAll(resp.Body)
	if err != nil || resp.ProtoMajor != 2 || string(back) != body {
		return fmt.Errorf("%s: %d bytes of %d, %v", resp.Proto, len(back), len(body), err)
	}
	if want := fmt.Sprintf("%x <nil>", sha256.Sum256([]byte(body))); resp.Trailer.Get("Sum") != want {
		return fmt.Errorf("the trailer is %q, want %q", resp.Trailer.Get("Sum"), want)
	}
	return nil
}
