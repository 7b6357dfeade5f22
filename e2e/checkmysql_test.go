package e2e

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"midspan/e2e/rig"
)

// connectErrors is what the server counts against midspan's address: it blocks a
// host that has more than max_connect_errors of them in a row.
type connectErrors struct{ known, errors, blocked int }

func connectErrorsOf(t *testing.T, db *sql.DB, ip string) (c connectErrors) {
	t.Helper()
	err := db.QueryRow("SELECT COUNT(*), COALESCE(SUM(sum_connect_errors), 0), COALESCE(SUM(count_host_blocked_errors), 0) FROM performance_schema.host_cache WHERE ip = ?", ip).
		Scan(&c.known, &c.errors, &c.blocked)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func exec(t *testing.T, db *sql.DB, queries ...string) {
	t.Helper()
	for _, q := range queries {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// TestCheckMariaDB is for a server that blocks an address at its first
// unfinished handshake.
func TestCheckMariaDB(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	l := newCheckLab(t)
	// The server counts for addresses that it could look up.
	rig.Overlay(t, "/etc/hosts", "127.0.0.1 localhost\n10.79.0.1 forwarder.example\n"+dbHost+" db.example\n")
	flags := []string{"--skip-name-resolve=OFF", "--max-connect-errors=1", "--performance-schema=ON"}
	at := dbHost + ":3306"
	db := rig.StartMariaDB(t, l.servers, at, flags...)
	mysql.RegisterDialContext("inside", func(_ context.Context, addr string) (net.Conn, error) { return l.servers.Dial(addr) })
	// From midspan's own address each login that works would clear the count.
	inside, err := sql.Open("mysql", "e2e:e2e@inside("+at+")/e2e?timeout=30s")
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	l.run("  db: { listen: \"127.0.0.1:3306\", to: \"" + at + "\", check: { kind: mysql, every: 20ms, timeout: 5s, fall: 1 } }\n")
	via := openDB(t, "127.0.0.1:3306")

	t.Run("not counted against us", func(t *testing.T) {
		// For a user that does not exist the server takes the plugin of any other.
		exec(t, inside, "INSTALL SONAME 'auth_ed25519'")
		const rounds = 8
		for i := range rounds {
			l.more(at, enoughTests/rounds)
			exec(t, inside, fmt.Sprintf("CREATE USER other%d@'%%' IDENTIFIED VIA ed25519 USING PASSWORD('x')", i))
		}
		l.more(at, enoughTests/rounds)
		if got := connectErrorsOf(t, inside, "10.79.0.1"); got != (connectErrors{known: 1}) {
			t.Errorf("the server counts %+v", got)
		}
		if err := via.Ping(); err != nil {
			t.Errorf("log in through midspan: %v", err)
		}
	})

	t.Run("no trace with a user for it", func(t *testing.T) {
		exec(t, inside, "CREATE USER midspan@'%'")
		l.more(at, 10) // those before may still be under way
		before, said := abortedCounts(t, inside), db.Stderr()
		l.more(at, 50)
		if after := abortedCounts(t, inside); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("the server counts %v after %v", after, before)
		}
		if now := db.Stderr(); now != said {
			t.Errorf("the log has got\n%s", strings.TrimPrefix(now, said))
		}
		exec(t, inside, "DROP USER midspan@'%'")
	})

	// What a test does that only connects: it is what the others are to be seen
	// against.
	t.Run("a connect alone is counted", func(t *testing.T) {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		l.awaitDown(at, "is blocked because of many connection errors")
		var no *mysql.MySQLError
		direct := openDB(t, at)
		if err := direct.Ping(); !errors.As(err, &no) || no.Number != 1129 {
			t.Errorf("a client of the same address gets %v, and not error 1129", err)
		}
		exec(t, inside, "FLUSH HOSTS")
		l.awaitUp(at)
		if err := via.Ping(); err != nil {
			t.Errorf("log in through midspan: %v", err)
		}
	})

	t.Run("full", func(t *testing.T) {
		exec(t, inside, "SET GLOBAL max_connections = 10")
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var held []*sql.Conn
		rig.Until(t, rig.Patience, "all connections are held", func() bool {
			// It is refused when they are all taken, of which a test may have one.
			if c, err := inside.Conn(ctx); err == nil {
				held = append(held, c)
			}
			return !l.state(at).Up
		})
		l.awaitDown(at, "Too many connections (1040)")
		for _, c := range held {
			c.Close()
		}
		l.awaitUp(at)
	})

	// Tests that get no answer are given up, and counted when the server comes to
	// them. A login that works clears the count.
	exec(t, inside, "SET GLOBAL max_connections = 100", "SET GLOBAL max_connect_errors = 100", "CREATE USER midspan@'%'")
	l.more(at, 10)
	l.hangs(at, db.Proc)
	l.more(at, 10)
	rig.Until(t, rig.Patience, "the server counts nothing from its pause", func() bool { return connectErrorsOf(t, inside, "10.79.0.1").errors == 0 })
	l.ends(at, db.Kill, func() { rig.StartMariaDB(t, l.servers, at, flags...) })
}
