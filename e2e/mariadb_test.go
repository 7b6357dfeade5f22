package e2e

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// The reference snippet, as it is.
const nginxMySQL = `stream {
    server {
        listen 3306;
        proxy_pass db_backend;
    }
    upstream db_backend {
        server 10.79.0.82:3306;
    }
}
`

const (
	dbClients = 200
	dbRows    = 10_000
	dbWide    = 5_000 // rows of 1 KiB: a result set of 5 MB
	dbChurn   = 2_000
)

// TestMariaDB does the same work directly and through midspan, and wants the
// same results to the byte.
func TestMariaDB(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	servers := rig.NewNet(t)
	rig.Cable(t, rig.End{Name: "srv0", Addrs: []string{"10.79.0.1/24"}},
		rig.End{Net: servers, Name: "srv1", Addrs: []string{"10.79.0.82/24"}})
	rig.StartMariaDB(t, servers, "10.79.0.82:3306")
	m := rig.Run(t, rig.Import(t, "nginx", nginxMySQL))

	direct, via := openDB(t, "10.79.0.82:3306"), openDB(t, "127.0.0.1:3306")
	seed(t, direct)
	t.Run("queries", func(t *testing.T) {
		want := measure(t, direct, "direct", allClients)
		got := measure(t, via, "through midspan", allClients)
		want.compare(t, got)
	})
	t.Run("churn", func(t *testing.T) {
		want := measure(t, direct, "direct", churn)
		got := measure(t, via, "through midspan", churn)
		want.compare(t, got)
	})
	now := metrics(t, m)
	through := now[`midspan_route_accepted_total{route="db_backend"}`]
	if through < dbClients+dbChurn {
		t.Errorf("%g connections went through midspan, want at least %d", through, dbClients+dbChurn)
	}
	t.Logf("%g connections through midspan, %.0f MiB up, %.0f MiB down", through,
		now[`midspan_route_bytes_total{direction="client_to_server",route="db_backend"}`]/(1<<20),
		now[`midspan_route_bytes_total{direction="server_to_client",route="db_backend"}`]/(1<<20))
}

func openDB(t *testing.T, addr string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", "e2e:e2e@tcp("+addr+")/e2e?multiStatements=true&maxAllowedPacket=67108864&readTimeout=60s&writeTimeout=60s&timeout=60s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxIdleConns(0) // each use is a connection of its own
	return db
}

// seed fills the tables that are read only.
func seed(t *testing.T, db *sql.DB) {
	t.Helper()
	for _, q := range []string{
		"CREATE TABLE points (id INT PRIMARY KEY, name CHAR(32) NOT NULL, big VARCHAR(300) NOT NULL)",
		fmt.Sprintf("INSERT INTO points SELECT seq, MD5(seq), REPEAT(SHA1(seq), 7) FROM seq_1_to_%d", dbRows),
		"CREATE TABLE wide (id INT PRIMARY KEY, nothing CHAR(9) NULL, text VARCHAR(1100) NOT NULL)",
		fmt.Sprintf("INSERT INTO wide SELECT seq, NULL, REPEAT(MD5(seq+1), 32) FROM seq_1_to_%d", dbWide),
		"CREATE TABLE orders (client INT, n INT, what TEXT, PRIMARY KEY (client, n))",
		"CREATE TABLE blobs (client INT PRIMARY KEY, body LONGBLOB)",
	} {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// outcome is what one run of a workload saw.
type outcome struct {
	sums    map[string]string // hash of all rows, by what was asked
	aborted map[string]int    // the server's own count of what went wrong
}

func (o outcome) compare(t *testing.T, got outcome) {
	t.Helper()
	if len(got.sums) != len(o.sums) {
		t.Errorf("%d results, want %d", len(got.sums), len(o.sums))
	}
	for what, want := range o.sums {
		if got.sums[what] != want {
			t.Errorf("%s: rows have hash %q, directly %q", what, got.sums[what], want)
		}
	}
	for what, want := range o.aborted {
		if got.aborted[what] != want {
			t.Errorf("%s: %d through midspan, %d directly", what, got.aborted[what], want)
		}
	}
}

// measure runs a workload on an emptied database.
func measure(t *testing.T, db *sql.DB, how string, work func(*testing.T, *sql.DB) map[string]string) outcome {
	t.Helper()
	for _, table := range []string{"orders", "blobs"} {
		if _, err := db.Exec("TRUNCATE " + table); err != nil {
			t.Fatal(err)
		}
	}
	before := abortedCounts(t, db)
	begin := time.Now()
	o := outcome{sums: work(t, db), aborted: map[string]int{}}
	took := time.Since(begin)
	for what, n := range abortedCounts(t, db) {
		o.aborted[what] = n - before[what]
	}
	t.Logf("%-16s %3d results in %s; %v", how, len(o.sums), took.Round(time.Millisecond), o.aborted)
	return o
}

// abortedCounts are the server's counts of connections that failed (a server
// that sees max_connect_errors of them refuses the forwarder's address) or that
// ended without a goodbye.
func abortedCounts(t *testing.T, db *sql.DB) map[string]int {
	t.Helper()
	rows, err := db.Query("SHOW GLOBAL STATUS WHERE Variable_name IN ('Aborted_connects', 'Aborted_clients', 'Aborted_connects_preauth')")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	counts := map[string]int{}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			t.Fatal(err)
		}
		if counts[name], err = strconv.Atoi(value); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil || len(counts) == 0 {
		t.Fatalf("aborted connections: %v, %v", counts, err)
	}
	return counts
}

// allClients are connected at the same time, all of them, before the first
// begins.
func allClients(t *testing.T, db *sql.DB) map[string]string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	sums := map[string]string{}
	var mu sync.Mutex
	var all, connected sync.WaitGroup
	connected.Add(dbClients)
	for id := range dbClients {
		all.Go(func() {
			conn, err := db.Conn(ctx)
			connected.Done()
			if err != nil {
				t.Errorf("client %d: connect: %v", id, err)
				return
			}
			defer conn.Close()
			connected.Wait()
			sum, err := (&dbClient{ctx: ctx, conn: conn, id: id}).work()
			if err != nil {
				t.Errorf("client %d: %v", id, err)
			}
			mu.Lock()
			defer mu.Unlock()
			sums["client "+strconv.Itoa(id)] = sum
		})
	}
	all.Wait()
	sum, err := hashRows(db.QueryContext(ctx, "SELECT * FROM orders ORDER BY client, n"))
	if err != nil {
		t.Errorf("orders: %v", err)
	}
	sums["orders"] = sum
	return sums
}

// churn connects, asks once and says goodbye, over and over.
func churn(t *testing.T, db *sql.DB) map[string]string {
	const workers = 16
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range dbChurn / workers {
				var one int
				if err := db.QueryRow("SELECT 1").Scan(&one); err != nil || one != 1 {
					t.Errorf("SELECT 1 gave %d, %v", one, err)
				}
			}
		})
	}
	all.Wait()
	return map[string]string{"churn": strconv.Itoa(dbChurn)}
}
