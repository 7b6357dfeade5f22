package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// headered is a connection that begins with a PROXY header, byte by byte or at
// once.
func headered(t *testing.T, addr, header string, slowly bool) net.Conn {
	t.Helper()
	c := dial(t, addr)
	step := len(header)
	if slowly {
		step = 1
	}
	for len(header) > 0 {
		if _, err := io.WriteString(c, header[:step]); err != nil {
			t.Fatal(err)
		}
		header = header[step:]
	}
	return c
}

// TestProxyModes: a PROXY header goes before everything else, in every mode, and
// each mode knows the client by it.
func TestProxyModes(t *testing.T) {
	ca := rig.NewCA(t, "e2e")
	id := ca.Issue("db.example.com")
	secure := echoTLS(t, &tls.Config{Certificates: []tls.Certificate{id.Load(t)}})
	echo := rig.Serve(t, nil, "127.0.0.1:0", rig.Echo)
	web := telling(t, "web", "")
	f := rig.NewFile(t)
	f.Log = "json"
	addrs := map[string]string{}
	text := "routes:\n"
	for name, settings := range map[string]string{
		"tcp":  fmt.Sprintf("to: %q", echo.Addr),
		"sni":  fmt.Sprintf("mode: sni, to: { db.example.com: %q }", secure.Addr),
		"tls":  fmt.Sprintf("tls: %q, to: %q", id.Cert, echo.Addr),
		"http": fmt.Sprintf("mode: http, to: %q", web),
	} {
		addrs[name] = rig.Addr(t, "127.0.0.1")
		text += fmt.Sprintf("  %s: { listen: %q, proxy_protocol: required, %s }\n", name, addrs[name], settings)
	}
	f.Write("%s", text)
	m := rig.Run(t, f)
	config := &tls.Config{RootCAs: ca.Pool, ServerName: "db.example.com"}
	n := map[string]int{}
	for i, slowly := range []bool{false, true} {
		for j, header := range []string{
			proxyV2(1, fmt.Sprintf("10.1.2.%d:4000%d", i, i), "10.0.0.4:1433", azureLink(553665985)),
			fmt.Sprintf("PROXY TCP6 2001:db8::%d 2001:db8::99 5000%d 1433\r\n", i+1, i),
		} {
			client := []string{fmt.Sprintf("10.1.2.%d:4000%d", i, i), fmt.Sprintf("[2001:db8::%d]:5000%d", i+1, i)}[j]
			for _, mode := range []string{"tcp", "sni", "tls"} {
				c := headered(t, addrs[mode], header, slowly)
				if mode != "tcp" {
					c = tls.Client(c, config)
				}
				if err := rig.Exchange(c, uint64(i), 100_000); err != nil {
					t.Errorf("%s, %s: %v", mode, client, err)
				}
				c.Close()
				n[mode]++
				if r := lastRecord(t, m, mode, n[mode]); r.Client != client {
					t.Errorf("%s: the log has client %s, want %s", mode, r.Client, client)
				}
			}
			said, err := get(headered(t, addrs["http"], header, slowly), "")
			host, _, _ := net.SplitHostPort(client)
			if err != nil || !strings.Contains(said, "for="+host+" ") {
				t.Errorf("http: nginx is told %q, %v; want for=%s", said, err, host)
			}
		}
	}
}

// TestProxySlow: clients that send a part of a header, and no more, stop nobody,
// and are reset in time.
func TestProxySlow(t *testing.T) {
	const limit = 6 * time.Second
	web := telling(t, "web", "")
	f, addr := httpFile(t, "    to: %q\n    proxy_protocol: { timeout: %s }\n", web, limit)
	rig.Run(t, f)
	header := proxyV2(1, "10.1.2.3:40000", "10.0.0.4:80", azureLink(553665985))
	var all sync.WaitGroup
	for i := range 200 {
		begin := time.Now()
		c := headered(t, addr, header[:1+i%(len(header)-1)], false)
		all.Go(func() { wantSentAway(t, c, begin, limit) })
	}
	var worst time.Duration
	for range 50 {
		begin := time.Now()
		if _, err := get(headered(t, addr, header, false), ""); err != nil {
			t.Error(err)
		}
		worst = max(worst, time.Since(begin))
	}
	if worst > limit/2 { // it would be all of it, or the slow ones are gone
		t.Errorf("one of 50 others took %s", worst)
	}
	all.Wait()
	if _, err := fieldsOf(&http.Client{Timeout: rig.Patience}, "http://"+addr+"/"); err == nil {
		t.Error("a request without a header is answered")
	}
}

// wantSentAway wants a connection that was begun, and went no further, reset when its
// time is over and not long after.
func wantSentAway(t *testing.T, c net.Conn, begin time.Time, limit time.Duration) {
	t.Helper()
	_, err := c.Read(make([]byte, 1))
	if took := time.Since(begin); !errors.Is(err, syscall.ECONNRESET) || took < limit-time.Second || took > 2*limit {
		t.Errorf("a slow connection ended with %v after %s; want a reset after %s", err, took, limit)
	}
}
