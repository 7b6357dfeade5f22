package health

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
)

// MySQL client/server protocol: connection phase, capability flags, commands.
const (
	mysqlProtocol = 10 // of the handshake; since MySQL 3.21

	mysqlProtocol41       = 1 << 9
	mysqlSecureConnection = 1 << 15
	mysqlPluginAuth       = 1 << 19

	mysqlOK     = 0x00
	mysqlSwitch = 0xfe // AuthSwitchRequest
	mysqlErr    = 0xff
	mysqlQuit   = 0x01 // COM_QUIT
	mysqlUTF8   = 33   // utf8_general_ci, which every version knows

	mysqlMost   = 16 << 10 // the largest packet that is read, in bytes
	mysqlRounds = 8        // of questions and answers in a login, at the most
)

// mysqlUnusable are errors of a server that serves nobody, or nobody from here
// (MySQL and MariaDB have the same numbers). What else it may say after the
// handshake is about our user.
var mysqlUnusable = []int{
	1037, 1038, 1041, // out of memory
	1040,       // too many connections
	1042, 1043, // the handshake has failed
	1053, // shutting down
	1129, // this host is blocked because of many connection errors
	1130, // this host is not allowed to connect
	1135, // cannot create a thread
}

var errMySQLEnded = errors.New("the server ended the login without a word, and counts that against this host; give it a user " + ourUser + " without rights (docs/checks.md)")

// askMySQL logs in as a user without a password, whether there is such a user or
// not. A server counts every connection that ends before its login has been
// answered, and refuses an address with too many of them in a row
// (max_connect_errors); one that it has answered, be it by a no, it does not
// count there.
func askMySQL(k *talk) error {
	seq, greeting, err := k.mysqlPacket()
	if err != nil {
		return err
	}
	if len(greeting) > 0 && greeting[0] == mysqlErr {
		code, text := mysqlError(greeting)
		return says(text, strconv.Itoa(code))
	}
	can, ok := mysqlCapabilities(greeting)
	if !ok {
		return unexpected("a MySQL greeting", greeting)
	}
	if err := k.mysqlSay(seq+1, mysqlLogin(can)); err != nil {
		return err
	}
	return k.mysqlAnswers()
}

// mysqlAnswers gives the server what it asks for until the login has been
// decided.
func (t *talk) mysqlAnswers() error {
	plugin := mysqlNative
	for round := range mysqlRounds {
		seq, p, err := t.mysqlPacket()
		switch {
		case errors.Is(err, errCutShort):
			return errMySQLEnded
		case err != nil:
			return err
		case len(p) == 0:
			return unexpected("a MySQL packet", p)
		case p[0] == mysqlOK:
			return t.mysqlSay(0, []byte{mysqlQuit})
		case p[0] == mysqlErr:
			if code, text := mysqlError(p); slices.Contains(mysqlUnusable, code) {
				return says(text, strconv.Itoa(code))
			}
			return nil
		case p[0] == mysqlSwitch:
			name, _, _ := bytes.Cut(p[1:], []byte{0})
			plugin, round = string(name), 0
		}
		if err := t.mysqlSay(seq+1, noPassword(plugin, round)); err != nil {
			return err
		}
	}
	return errors.New("the server does not come to the end of the login")
}

const mysqlNative = "mysql_native_password"

// noPassword is what a client without a password answers an authentication
// plugin. Its form must be right: one that is not counts as a failed handshake.
// For a user that does not exist, servers take the plugin of any other.
func noPassword(plugin string, round int) []byte {
	switch plugin {
	case "caching_sha2_password", "sha256_password", "mysql_clear_password", "dialog":
		return []byte{0} // the end of an empty text
	case "client_ed25519":
		return make([]byte, 64) // a signature
	case "parsec":
		if round > 0 {
			return make([]byte, 32+64) // our scramble, and a signature
		}
	}
	return nil
}

// mysqlCapabilities are those of a server's greeting (Protocol::HandshakeV10).
func mysqlCapabilities(greeting []byte) (can uint32, ok bool) {
	if len(greeting) == 0 || greeting[0] != mysqlProtocol {
		return 0, false
	}
	_, rest, found := bytes.Cut(greeting[1:], []byte{0}) // after the version
	const low, high = 4 + 8 + 1, 4 + 8 + 1 + 2 + 1 + 2   // after id, scramble, filler; charset, status
	if !found || len(rest) < high+2 {
		return 0, false
	}
	can = uint32(binary.LittleEndian.Uint16(rest[low:])) | uint32(binary.LittleEndian.Uint16(rest[high:]))<<16
	return can, can&mysqlProtocol41 != 0
}

// mysqlLogin is a Protocol::HandshakeResponse41 without a password.
func mysqlLogin(can uint32) []byte {
	can &= mysqlProtocol41 | mysqlSecureConnection | mysqlPluginAuth
	b := binary.LittleEndian.AppendUint32(nil, can)
	b = binary.LittleEndian.AppendUint32(b, mysqlMost) // the largest packet we take
	b = append(b, mysqlUTF8)
	b = append(b, make([]byte, 23)...)
	b = append(b, ourUser...)
	b = append(b, 0, 0) // the name's end, and no password
	if can&mysqlPluginAuth != 0 {
		b = append(append(b, mysqlNative...), 0)
	}
	return b
}

// mysqlPacket is the next packet and its number.
func (t *talk) mysqlPacket() (seq byte, body []byte, err error) {
	head := make([]byte, 4)
	if err := t.full(head); err != nil {
		return 0, nil, err
	}
	size := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if size > mysqlMost {
		return 0, nil, unexpected("a MySQL packet", head)
	}
	body = make([]byte, size)
	return head[3], body, t.full(body)
}

func (t *talk) mysqlSay(seq byte, body []byte) error {
	n := len(body)
	return t.say(append([]byte{byte(n), byte(n >> 8), byte(n >> 16), seq}, body...))
}

// mysqlError reads an ERR_Packet, with a SQLSTATE or (before the login) without.
func mysqlError(p []byte) (code int, text string) {
	if len(p) < 3 {
		return 0, "an error that is cut short"
	}
	code, p = int(binary.LittleEndian.Uint16(p[1:])), p[3:]
	if len(p) >= 6 && p[0] == '#' {
		p = p[6:]
	}
	return code, string(p)
}
