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

// StartMariaDB starts one at addr of a namespace; of its options, those in more
// win over those that stand here.
func StartMariaDB(t testing.TB, in *Net, addr string, more ...string) *MariaDB {
	t.Helper()
	install := Need(t, "mariadb-install-db", "mariadb-server")
	daemon := Need(t, "mariadbd", "mariadb-server")
	dir, err := os.MkdirTemp("", "db") // a socket's path has 107 characters at the most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	account, flags, err := mariadbUser(dir)
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
	flags = append(flags,
		"--socket="+filepath.Join(dir, "sock"), "--pid-file="+filepath.Join(dir, "pid"),
		"--bind-address="+host, "--port="+port, "--init-file="+start, "--skip-name-resolve",
		"--max-connections=500", "--back-log=1000", "--max-allowed-packet=64M", "--innodb-log-file-size=256M",
		"--innodb-flush-log-at-trx-commit=0", "--innodb-fast-shutdown=2",
	)
	p := Start(t, Spec{Program: daemon, User: account, In: in, Args: append(flags, more...)})
	Until(t, Patience, "mariadbd listens on "+addr, func() bool {
		if !p.Alive() {
			t.Fatal("mariadbd has ended")
		}
		return Listens(in, addr)
	})
	return &MariaDB{p, addr}
}

// mariadbUser is who the server is to run as (nil: the test's own user), with
// the flags for that; dir is given to it. The server refuses root, but for where
// root is nobody: in a user namespace.
func mariadbUser(dir string) (*syscall.Credential, []string, error) {
	if os.Geteuid() != 0 {
		return nil, nil, nil
	}
	if u, err := user.Lookup("mysql"); err == nil && os.Getenv(ownUsers) == "" {
		account, err := give(dir, u)
		return account, nil, err
	}
	return nil, []string{"--user=root"}, nil
}

// give makes dir the user's own. A server that changed its user by itself would
// not die with the test any more (prctl(2), PR_SET_PDEATHSIG).
func give(dir string, u *user.User) (*syscall.Credential, error) {
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if err := errors.Join(errUID, errGID, os.Chown(dir, uid, gid)); err != nil {
		return nil, fmt.Errorf("give %s to %s: %w", dir, u.Username, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
