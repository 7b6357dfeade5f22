package web

import (
	"bytes"
	"time"

	"midspan/internal/web/h1"
)

// keepAliveOf is how long a connection may be idle by the server's own word,
// "timeout=5, max=100" in a Keep-Alive field, with some time taken off for the
// way: a request that is sent when the server closes is lost.
func keepAliveOf(field []byte) time.Duration {
	const key = "timeout="
	i := bytes.Index(field, []byte(key))
	if i < 0 {
		return idleServer
	}
	n := time.Duration(0)
	for _, c := range field[i+len(key):] {
		if c < '0' || c > '9' || n > idleServer {
			break
		}
		n = n*10 + time.Duration(c-'0')*time.Second
	}
	return n - min(time.Second, n/2)
}

// ofConnection tells whether some challenge, or what answers one, is of a scheme
// that authenticates the connection. There may be several in a field.
func ofConnection(v []byte) bool {
	for len(v) > 0 {
		var one []byte
		one, v, _ = bytes.Cut(v, []byte(","))
		one = bytes.TrimLeft(one, " \t")
		if end := bytes.IndexAny(one, " \t"); end >= 0 {
			one = one[:end]
		}
		if h1.Equal(one, "ntlm") || h1.Equal(one, "negotiate") {
			return true
		}
	}
	return false
}
