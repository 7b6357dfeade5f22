package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Nginx is an nginx of one process.
type Nginx struct {
	*Proc
	Addr string
}

// WebServer is an nginx at addr that answers every request with size bytes and
// the header Served-By. Connections are closed after 100 requests, so that those
// of clients with keep-alive are spread anew.
func WebServer(t testing.TB, in *Net, addr, name string, size int) *Nginx {
	t.Helper()
	return startNginx(t, in, addr, "", fmt.Sprintf(`http {
	access_log off;
	%s
	keepalive_requests 100;
	server {
		listen %s;
		root .;
		location / { add_header Served-By %s; try_files /body =404; }
	}
}`, tempPaths, addr, name), size)
}

// WebServerWith is an nginx that answers every request with 200, and has more
// said of its server: where it listens, with what certificate (server.crt and
// server.key are there), and so on.
func WebServerWith(t testing.TB, in *Net, addr, server string) *Nginx {
	t.Helper()
	return startNginx(t, in, addr, "", fmt.Sprintf(`http {
	access_log off;
	client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
	server { %s location / { return 200 "fine"; } }
}`, server), 0)
}

// StreamProxy is an nginx at addr that forwards TCP to a server.
func StreamProxy(t testing.TB, addr, to string) *Nginx {
	t.Helper()
	return Stream(t, addr, fmt.Sprintf("server { listen %s; proxy_pass %s; }", addr, to))
}

// tempPaths keep nginx's files in its own directory.
const tempPaths = "client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;"

// Web is an nginx whose http block has this text; it listens on addr.
func Web(t testing.TB, addr, text string) *Nginx {
	t.Helper()
	return startNginx(t, nil, addr, "", "http {\n\taccess_log off;\n\t"+tempPaths+"\n"+text+"\n}", 0)
}

// Stream is an nginx whose stream block has this text; it listens on addr.
func Stream(t testing.TB, addr, text string) *Nginx {
	t.Helper()
	module := NeedFile(t, "/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream")
	return startNginx(t, nil, addr, "load_module "+module+";", "stream {\n"+text+"\n}", 0)
}

// startNginx runs nginx without a master: a kill -9 is the end of all of it.
func startNginx(t testing.TB, in *Net, addr, top, blocks string, size int) *Nginx {
	t.Helper()
	program := Need(t, "nginx", "nginx")
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		top += "user root root;" // in a user namespace there may be nobody else to give files to
	}
	conf := fmt.Sprintf("%s\ndaemon off; master_process off; pid nginx.pid; error_log stderr;\nevents { worker_connections 4096; }\n%s\n", top, blocks)
	certificate, key := SelfSigned(t)
	for name, content := range map[string][]byte{"nginx.conf": []byte(conf), "body": Bytes(1, size), "server.crt": certificate, "server.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Paths in the file are relative to the prefix; the log of the time before
	// it is read is not.
	p := Start(t, Spec{Program: program, In: in, Args: []string{"-p", dir + "/", "-c", "nginx.conf", "-e", "stderr"}})
	Until(t, Patience, "nginx listens on "+addr, func() bool {
		if !p.Alive() {
			t.Fatal("nginx has ended")
		}
		return Listens(in, addr)
	})
	return &Nginx{p, addr}
}
