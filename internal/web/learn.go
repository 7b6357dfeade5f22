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

// ofConnection tells whether a challenge, or what answers one, is of a scheme
// that authenticates the connection.
func ofConnection(v []byte) bool {
	scheme, _, _ := bytes.Cut(v, []byte(" "))
	return h1.Equal(scheme, "ntlm") || h1.Equal(scheme, "negotiate")
}
