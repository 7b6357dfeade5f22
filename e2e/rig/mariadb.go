package rig

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// MariaDB is a database server of its own, with an empty database e2e that the
// user e2e (password e2e) may do anything with, from anywhere.
type MariaDB struct {
	*Proc
	Addr string
}

// StartMariaDB starts one at addr of a namespace.
func StartMariaDB(t testing.TB, in *Net, addr string) *MariaDB {
	t.Helper()
	install := Need(t, "mariadb-install-db", "mariadb-server")
	daemon := Need(t, "mariadbd", "mariadb-server")
	dir, err := os.MkdirTemp("", "db") // a socket's path has 107 characters at the most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	account, flags, err := databaseUser(dir)
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	flags = append([]string{"--no-defaults", "--datadir=" + data, "--tmpdir=" + dir}, flags...)
	i := Start(t, Spec{Program: install, User: account, Args: append(flags, "--auth-root-authentication-method=normal", "--skip-test-db")})
	if code := i.Exit(2 * time.Minute); code != 0 {
		t.Fatalf("mariadb-install-db ended with code %d", code)
	}
	start := filepath.Join(dir, "init.sql")
	if err := os.WriteFile(start, []byte("CREATE DATABASE e2e;\nCREATE USER e2e@'%' IDENTIFIED BY 'e2e';\nGRANT ALL ON *.* TO e2e@'%';\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	p := Start(t, Spec{Program: daemon, User: account, In: in, Args: append(flags,
		"--socket="+filepath.Join(dir, "sock"), "--pid-file="+filepath.Join(dir, "pid"),
		"--bind-address="+host, "--port="+port, "--init-file="+start, "--skip-name-resolve",
		"--max-connections=500", "--max-allowed-packet=64M", "--innodb-log-file-size=256M",
		"--innodb-flush-log-at-trx-commit=0", "--innodb-fast-shutdown=2",
	)})
	Until(t, 60*time.Second, "mariadbd listens on "+addr, func() bool {
		if !p.Alive() {
			t.Fatal("mariadbd has ended")
		}
		return Listens(in, addr)
	})
	return &MariaDB{p, addr}
}

// databaseUser is who the server is to run as (nil: the test's own user), with
// the flags for that; dir is given to it. The server refuses root, but for where
// root is nobody: in a user namespace. It must not change its user by itself,
// because then it would not die with the test any more (prctl(2),
// PR_SET_PDEATHSIG).
func databaseUser(dir string) (*syscall.Credential, []string, error) {
	if os.Geteuid() != 0 {
		return nil, nil, nil
	}
	u, err := user.Lookup("mysql")
	if os.Getenv(ownUsers) != "" || err != nil {
		return nil, []string{"--user=root"}, nil
	}
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if err := errors.Join(errUID, errGID, os.Chown(dir, uid, gid)); err != nil {
		return nil, nil, fmt.Errorf("give %s to mysql: %w", dir, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil, nil
}
