package health

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
)

// PostgreSQL, "Frontend/Backend Protocol", message formats.
const (
	pgSSLRequest = 80877103
	pgVersion    = 3 << 16

	pgEncrypts = 'S' // answers to pgSSLRequest
	pgPlain    = 'N'

	pgAuthentication = 'R'
	pgError          = 'E'
	pgReady          = 'Z'

	pgMost     = 16 << 10 // the largest message that is read, in bytes
	pgMessages = 64       // that many come before the one that decides, at the most
)

// pgUnusable are the classes of SQLSTATE (PostgreSQL, appendix A) that mean that
// the server can serve nobody: of the others, most say that our user does not
// exist or may not log in, which a server that works says.
var pgUnusable = []string{
	"08001", "08004", "08006", // a pooler that cannot reach its server
	"53", // too many connections, out of memory, disk full
	"57", // starting up, shutting down
	"58", // system error
	"XX", // internal error
}

// askPostgres begins a session: encrypted where the server can, as clients do by
// default, since a server may log those that are not. It goes as far as the
// server's question for a password: a client that leaves then leaves no trace in
// the log. Only a session says whether the server takes any.
func (l *line) askPostgres() error {
	if l.tls == nil {
		switch answer, err := askPostgresSSL(l.Conn); {
		case err != nil || answer == pgError:
			return err
		case answer == pgEncrypts:
			err := l.encrypt(&tls.Config{
				ServerName: tlsName(l.target), NextProtos: []string{"postgresql"},
				MinVersion: tls.VersionTLS10, InsecureSkipVerify: true, // nothing secret is sent
			})
			if err != nil {
				return err
			}
		}
	}
	return askPostgresLogin(l.talk())
}

// askPostgresSSL asks whether the server would encrypt. It reads one byte, since
// what follows belongs to TLS. An error in place of the answer ends the
// conversation: err says whether it speaks against the server.
func askPostgresSSL(c io.ReadWriter) (answer byte, err error) {
	request := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, pgSSLRequest)
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); errors.Is(err, io.EOF) {
		return 0, errNoAnswer
	} else if err != nil {
		return 0, err
	}
	switch b[0] {
	case pgEncrypts, pgPlain:
		return b[0], nil
	case pgError:
		return pgError, newTalk(c).pgRefusal()
	}
	return 0, unexpected("S or N to a PostgreSQL SSLRequest", b)
}

// pgLogin begins a session as our user, in the database that every cluster has.
func pgLogin() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), pgVersion)
	for _, s := range []string{"user", ourUser, "database", "postgres", "application_name", ourName, ""} {
		b = append(append(b, s...), 0)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

func askPostgresLogin(k *talk) error {
	if err := k.say(pgLogin()); err != nil {
		return err
	}
	for range pgMessages {
		kind, err := k.ReadByte()
		if err != nil {
			return k.why(err)
		}
		if kind == pgError {
			return k.pgRefusal()
		}
		body, err := k.pgBody(kind)
		switch {
		case err != nil:
			return err
		case kind == pgAuthentication && len(body) < 4:
			return unexpected("a PostgreSQL authentication request", body)
		case kind == pgAuthentication && binary.BigEndian.Uint32(body) != 0:
			return nil // it wants a password, or what else proves who we are
		case kind == pgReady:
			return k.say([]byte{'X', 0, 0, 0, 4}) // Terminate
		}
	}
	return errors.New("the server does not come to the end of the login")
}

// pgBody is the rest of a message whose kind has been read.
func (t *talk) pgBody(kind byte) ([]byte, error) {
	size := make([]byte, 4)
	if err := t.full(size); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size)
	if n < 4 || n > pgMost {
		return nil, unexpected("a PostgreSQL message", append([]byte{kind}, size...))
	}
	body := make([]byte, n-4)
	return body, t.full(body)
}

// pgRefusal reads what follows the E of an error, and is nil for one that a
// server has which others can use. A server that cannot make a process for us
// says so in the manner of version 2: in text alone.
func (t *talk) pgRefusal() error {
	size, err := t.Peek(4)
	if err != nil {
		return t.why(err)
	}
	if n := binary.BigEndian.Uint32(size); n > pgMost {
		text, err := t.ReadSlice(0)
		if len(text) == 0 && err != nil {
			return t.why(err)
		}
		return says(strings.TrimRight(string(text), "\n\x00"), "no SQLSTATE")
	}
	body, err := t.pgBody(pgError)
	if err != nil {
		return err
	}
	state, text := "", ""
	for field := range bytes.SplitSeq(body, []byte{0}) {
		switch {
		case len(field) == 0:
		case field[0] == 'C':
			state = string(field[1:])
		case field[0] == 'M':
			text = string(field[1:])
		}
	}
	if len(state) != 5 {
		return unexpected("an error with a SQLSTATE", body)
	}
	if slices.ContainsFunc(pgUnusable, func(class string) bool { return strings.HasPrefix(state, class) }) {
		return says(text, printable(state))
	}
	return nil
}
