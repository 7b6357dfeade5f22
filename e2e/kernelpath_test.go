package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"midspan/e2e/rig"
)

// ipFwdLines are the reference lines, and two more for real servers.
const ipFwdLines = `sudo ./ip_fwd.sh -i eth0 -f 9092 -a kafka1.corp.example.com -b 9092
sudo ./ip_fwd.sh -i eth0 -f 9093 -a kafka2.corp.example.com -b 9092
sudo ./ip_fwd.sh -i eth0 -f 9094 -a kafka3.corp.example.com -b 9092
sudo ./ip_fwd.sh -i eth0 -f 3306 -a db.org.example.com -b 3306
sudo ./ip_fwd.sh -i eth0 -f 80 -a webserver1.org.example.com -b 80
`

// TestImportIPFwdToKernel takes ip_fwd.sh's lines over and has a database and a
// web server give through the kernel what they give directly.
func TestImportIPFwdToKernel(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	k.f = rig.Import(t, "ip_fwd", ipFwdLines)
	text, err := os.ReadFile(k.f.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("engine: nft")) {
		// The importer is about to learn it.
		if err := os.WriteFile(k.f.Path, append(text, "\ndefaults:\n  engine: nft\n"...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"kafka1", "kafka2", "kafka3"} {
		k.greeter(labHosts[name+".corp.example.com"]+":9092", name)
	}
	const webBytes = 3 << 20
	rig.StartMariaDB(t, k.servers, "10.79.0.82:3306")
	rig.WebServer(t, k.servers, "10.79.0.81:80", "webserver1", webBytes)
	m := rig.Run(t, k.f)
	rig.Until(t, rig.Patience, "the probe is answered with 200", func() bool { return m.Probe() == 200 })
	for i := range 3 {
		addr, want := fmt.Sprintf("10.80.0.1:%d", 9092+i), fmt.Sprintf("kafka%d", i+1)
		if got, err := talk(k.clients, addr); got != want || err != nil {
			t.Errorf("%s: arrived at %q, %v; want %s", addr, got, err, want)
		}
	}
	onlyOn(t, "10.79.0.1:9092")

	direct, via := openDB(t, "10.79.0.82:3306"), k.openDB("10.80.0.1:3306")
	seed(t, direct)
	want := measure(t, direct, "direct", allClients)
	want.compare(t, measure(t, via, "through the kernel", allClients))

	page := sha256.Sum256(rig.Bytes(1, webBytes))
	for range 5 {
		body, by, err := k.get("http://10.80.0.1/")
		if sha256.Sum256(body) != page || by != "webserver1" || err != nil {
			t.Errorf("%d bytes of %d from %q, %v", len(body), webBytes, by, err)
		}
	}
	out := m.Control("plan", k.f.Path)
	if n := strings.Count(out, " nft "); n != 5 {
		t.Errorf("%d of 5 routes are the kernel's:\n%s", n, out)
	}
}

// openDB is a database as the clients' side sees it.
func (k *kernelLab) openDB(addr string) *sql.DB {
	k.t.Helper()
	mysql.RegisterDialContext("clients", func(_ context.Context, addr string) (net.Conn, error) { return k.connect(addr) })
	db, err := sql.Open("mysql", "e2e:e2e@clients("+addr+")/e2e?multiStatements=true&maxAllowedPacket=67108864&readTimeout=60s&writeTimeout=60s")
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { db.Close() })
	db.SetMaxIdleConns(0) // each use is a connection of its own
	return db
}

// get is a page as the clients' side sees it, and who served it.
func (k *kernelLab) get(url string) (body []byte, by string, err error) {
	client := http.Client{Timeout: rig.Patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(_ context.Context, _, addr string) (net.Conn, error) { return k.connect(addr) },
	}}
	resp, err := client.Get(url)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return body, resp.Header.Get("Served-By"), err
}

// TestKernelMTU has a narrow line in the middle, of which neither end knows, and
// on which ICMP is lost: segments must be small from the start.
func TestKernelMTU(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	linkMTU(t, nil, "srv0", 1300)
	const look = `add table inet look
add counter inet look small
add counter inet look large
add chain inet look in { type filter hook input priority 0; }
add rule inet look in tcp flags & syn == syn tcp option maxseg size <= 1260 counter name small
add rule inet look in tcp flags & syn == syn tcp option maxseg size > 1260 counter name large
`
	for _, in := range []*rig.Net{k.servers, k.clients} {
		tool(t, in, "nft", look)
	}
	k.script(`nft add table inet lossy
		nft add chain inet lossy out { type filter hook output priority 0; }
		nft add rule inet lossy out meta l4proto icmp drop`)
	server := rig.Serve(t, k.servers, "10.79.0.91:9092", bulk)
	k.routes("  bulk: { listen: \"%%eth0:9092\", to: %q }\n", server.Addr)
	rig.Run(t, k.f)
	const n = 64 << 20
	for _, what := range []string{"down", "up"} {
		begin := time.Now()
		if err := k.move(what, n); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		took := time.Since(begin)
		t.Logf("%-4s %.0f MiB/s", what, float64(n>>20)/took.Seconds())
	}
	for who, in := range map[string]*rig.Net{"the server": k.servers, "the client": k.clients} {
		text := tool(t, in, "nft", "list", "counters", "table", "inet", "look")
		var counts []string
		for _, m := range regexp.MustCompile(`packets (\d+)`).FindAllStringSubmatch(text, -1) {
			counts = append(counts, m[1])
		}
		// A busy machine may send one again.
		if len(counts) != 2 || counts[0] == "0" || counts[0] == "1" || counts[1] != "0" {
			t.Errorf("%s has seen SYNs with MSS up to 1260 and above: %v, want 2 or more and 0\n%s", who, counts, text)
		}
	}
}

// move transfers n bytes with a server that plays bulk, from the clients' side.
func (k *kernelLab) move(what string, n int64) error {
	c, err := k.connect(front)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * rig.Patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "%s %d\n", what, n); err != nil {
		return err
	}
	if what == "down" {
		want, _ := rig.Send(io.Discard, 2, n) // io.Discard takes everything
		got, err := rig.Receive(c, n)
		if err == nil && got != want {
			err = fmt.Errorf("%d bytes arrived changed", n)
		}
		return err
	}
	sum, err := rig.Send(c, 1, n)
	if err != nil {
		return err
	}
	line, err := greeting(c)
	if err == nil && !bytes.Equal([]byte(line), fmt.Appendf(nil, "%x", sum)) {
		err = fmt.Errorf("%d bytes arrived changed", n)
	}
	return err
}
