package health

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"midspan/internal/plan"
)

func mysqlBytes(seq byte, body string) string {
	n := len(body)
	return string([]byte{byte(n), byte(n >> 8), byte(n >> 16), seq}) + body
}

func mysqlErrBytes(code uint16, text string) string {
	return "\xff" + string(binary.LittleEndian.AppendUint16(nil, code)) + text
}

// As MariaDB 10.11 says them.
const (
	mysqlHello  = "\x64\x00\x00\x00\x0a5.5.5-10.11.19-MariaDB-0+deb12u1\x00\x03\x00\x00\x00).Lu(c?L\x00\xfe\xf7\x08\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00CJ)-H`+R?\"*L\x00mysql_native_password\x00"
	mysqlDenied = "\xff\x15\x04#28000Access denied for user 'midspan'@'10.0.0.4' (using password: NO)"
)

func TestMySQL(t *testing.T) {
	t.Parallel()
	var (
		zeros = strings.Repeat("\x00", 23)
		login = mysqlBytes(1, "\x00\x82\x08\x00\x00\x40\x00\x00\x21"+zeros+"midspan\x00\x00mysql_native_password\x00")
		old   = mysqlBytes(1, "\x00\x82\x00\x00\x00\x40\x00\x00\x21"+zeros+"midspan\x00\x00")
		quit  = "\x01\x00\x00\x00\x01"
		ok    = mysqlBytes(2, "\x00\x00\x00\x02\x00\x00\x00")
		no    = mysqlBytes(2, mysqlDenied)
		later = func(seq byte) string { return mysqlBytes(seq, mysqlDenied) }
		to    = func(seq byte, plugin string) string { return mysqlBytes(seq, "\xfe"+plugin+"\x00scramble\x00") }
	)
	refused := func(code uint16, text string) []step {
		return []step{{"", mysqlHello}, {login, mysqlBytes(2, mysqlErrBytes(code, text))}}
	}
	playAll(t, plan.Check{Kind: plan.CheckMySQL}, []exchange{
		{"denied", []step{{"", mysqlHello}, {login, no}}, ""},
		{"let in", []step{{"", mysqlHello}, {login, ok}, {quit, ""}}, ""},
		{"before plugins", []step{{"", mysqlBytes(0, "\x0a5.1.73\x00\x03\x00\x00\x00).Lu(c?L\x00\xff\xf7\x08\x02\x00\x00\x00\x00"+strings.Repeat("\x00", 23))}, {old, no}}, ""},
		{"native asked for anew", []step{{"", mysqlHello}, {login, to(2, "mysql_native_password")}, {mysqlBytes(3, ""), later(4)}}, ""},
		{"caching_sha2", []step{{"", mysqlHello}, {login, to(2, "caching_sha2_password")}, {mysqlBytes(3, "\x00"), later(4)}}, ""},
		{"ed25519", []step{{"", mysqlHello}, {login, to(2, "client_ed25519")}, {mysqlBytes(3, strings.Repeat("\x00", 64)), later(4)}}, ""},
		{"parsec", []step{{"", mysqlHello}, {login, to(2, "parsec")}, {mysqlBytes(3, ""), mysqlBytes(4, "\x01P0salt")}, {mysqlBytes(5, strings.Repeat("\x00", 96)), later(6)}}, ""},
		{"the old password", []step{{"", mysqlHello}, {login, mysqlBytes(2, "\xfe")}, {mysqlBytes(3, ""), later(4)}}, ""},
		{"wants TLS", refused(3159, "#HY000Connections using insecure transport are prohibited while --require_secure_transport=ON."), ""},
		{"locked", refused(4151, "#HY000Access denied, this account is locked"), ""},
		{"full", []step{{"", mysqlBytes(0, mysqlErrBytes(1040, "Too many connections"))}}, "mysql: the server says: Too many connections (1040)"},
		{"full, told later", refused(1040, "#08004Too many connections"), "mysql: the server says: Too many connections (1040)"},
		{"ends", refused(1053, "#08S01Server shutdown in progress"), "mysql: the server says: Server shutdown in progress (1053)"},
		{"blocked", []step{{"", mysqlBytes(0, mysqlErrBytes(1129, "Host '10.0.0.4' is blocked because of many connection errors"))}}, "mysql: the server says: Host '10.0.0.4' is blocked because of many connection errors (1129)"},
		{"not allowed", []step{{"", mysqlBytes(0, mysqlErrBytes(1130, "Host '10.0.0.4' is not allowed to connect to this MySQL server"))}}, "mysql: the server says: Host '10.0.0.4' is not allowed to connect to this MySQL server (1130)"},
		{"an error in two bytes", []step{{"", mysqlBytes(0, "\xff\x10")}}, "mysql: the server says: an error that is cut short (0)"},
		{"another greeting", []step{{"", mysqlBytes(0, "\x09 3.20")}}, `mysql: expected a MySQL greeting, got "\t 3.20"`},
		{"too old", []step{{"", strings.Replace(mysqlHello, "\xfe\xf7", "\xfe\xf5", 1)}}, "mysql: expected a MySQL greeting, got "},
		{"an empty greeting", []step{{"", mysqlBytes(0, "")}}, `mysql: expected a MySQL greeting, got ""`},
		{"an empty packet", []step{{"", mysqlHello}, {login, mysqlBytes(2, "")}}, "mysql: expected a MySQL packet"},
		{"another protocol", []step{{"", "SSH-2.0-OpenSSH_9.2p1\r\n"}}, `mysql: expected a MySQL packet, got "SSH-"`},
		{"asks on and on", []step{{"", mysqlHello}, {login, asksOn(8)}, {answersOn(8), ""}}, "mysql: the server does not come to the end of the login"},
		{"says nothing", []step{{"", ""}}, "mysql: no answer in "},
		{"says nothing more", []step{{"", mysqlHello}, {login, ""}}, "mysql: no answer in "},
	})
}

// asksOn are n questions of a server that does not wait for answers; answersOn
// are those.
func asksOn(n int) (all string) {
	for i := range n {
		all += mysqlBytes(byte(2+2*i), "\x01more")
	}
	return all
}

func answersOn(n int) (all string) {
	for i := range n {
		all += mysqlBytes(byte(3+2*i), "")
	}
	return all
}

func pgBytes(kind byte, body string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))) + body
}

func pgErrorBytes(state, text string) string {
	return pgBytes('E', fmt.Sprintf("SFATAL\x00VFATAL\x00C%s\x00M%s\x00Fx.c\x00L1\x00Ry\x00\x00", state, text))
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	const (
		ssl   = "\x00\x00\x00\x08\x04\xd2\x16\x2f"
		start = "\x00\x00\x00\x47\x00\x03\x00\x00user\x00midspan\x00database\x00postgres\x00application_name\x00midspan-check\x00\x00"
		bye   = "X\x00\x00\x00\x04"
	)
	var (
		welcome = pgBytes('R', "\x00\x00\x00\x00")
		ready   = pgBytes('S', "server_version\x0015\x00") + pgBytes('K', "\x00\x00\x00\x01\x00\x00\x00\x02") + pgBytes('Z', "I")
	)
	said := func(answer string) []step { return []step{{ssl, "N"}, {start, answer}} }
	playAll(t, plan.Check{Kind: plan.CheckPostgres}, []exchange{
		{"scram", said(pgBytes('R', "\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00")), ""},
		{"md5", said(pgBytes('R', "\x00\x00\x00\x05salt")), ""},
		{"let in", []step{{ssl, "N"}, {start, welcome + ready}, {bye, ""}}, ""},
		{"no such role", said(welcome + pgErrorBytes("28000", `role "midspan" does not exist`)), ""},
		{"not from here", said(pgErrorBytes("28000", `no pg_hba.conf entry for host "10.0.0.4"`)), ""},
		{"no such database", said(pgErrorBytes("3D000", `database "postgres" does not exist`)), ""},
		{"full", said(pgErrorBytes("53300", "sorry, too many clients already")), "postgres: the server says: sorry, too many clients already (53300)"},
		{"starts", said(pgErrorBytes("57P03", "the database system is starting up")), "postgres: the server says: the database system is starting up (57P03)"},
		{"cannot fork", []step{{ssl, "N"}, {start, "Ecould not fork new process for connection: Resource temporarily unavailable\n\x00"}}, "postgres: the server says: could not fork new process for connection: Resource temporarily unavailable (no SQLSTATE)"},
		{"cannot fork for the first question", []step{{ssl, "Ecould not fork new process for connection\n\x00"}}, "postgres: the server says: could not fork new process for connection (no SQLSTATE)"},
		{"an error for the first question", []step{{ssl, pgErrorBytes("57P03", "the database system is shutting down")}}, "postgres: the server says: the database system is shutting down (57P03)"},
		{"not from here, at once", []step{{ssl, pgErrorBytes("28000", "no pg_hba.conf entry")}}, ""},
		{"an error without a state", said(pgBytes('E', "Mhm\x00\x00")), `postgres: expected an error with a SQLSTATE, got "Mhm\x00\x00"`},
		{"a short question", said(pgBytes('R', "\x00\x00")), "postgres: expected a PostgreSQL authentication request"},
		{"a long message", said("S\x00\x01\x00\x00"), `postgres: expected a PostgreSQL message, got "S\x00\x01\x00\x00"`},
		{"a message shorter than its size", said("S\x00\x00\x00\x03"), "postgres: expected a PostgreSQL message"},
		{"notices without end", said(strings.Repeat(pgBytes('N', "x"), 65)), "postgres: the server does not come to the end of the login"},
		{"another protocol", []step{{ssl, "HTTP/1.1 400 Bad Request\r\n\r\n"}}, `postgres: expected S or N to a PostgreSQL SSLRequest, got "H"`},
		{"says nothing", []step{{ssl, ""}}, "postgres: no answer in "},
	})
}
