package load

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxHead bounds the head of a request that the target takes.
const maxHead = 16 << 10

// ServeHTTP answers GET requests of HTTP/1.1 on addr until ctx ends: /N with a
// body of N bytes. It is like Serve else, and reads no request ahead: a client
// that sends the next one before it has its answer is cut off.
func ServeHTTP(ctx context.Context, addr string) error {
	return serve(ctx, addr, func(t *target) { t.http = true })
}

// httpRequest reads, as request does.
func (t *target) httpRequest(c *served) unix.Errno {
	n, e := read(c.fd, t.buffer)
	if e != 0 {
		return e
	}
	if n == 0 {
		return unix.EPIPE // the end
	}
	c.request = append(c.request, t.buffer[:n]...)
	end := bytes.Index(c.request, []byte("\r\n\r\n"))
	switch {
	case end < 0 && len(c.request) > maxHead:
		return unix.EMSGSIZE
	case end < 0:
		return 0
	case end+4 < len(c.request):
		return unix.EPROTO // more than one request, or one with a body
	}
	size, last, ok := parseRequest(c.request[:end+2])
	if !ok {
		return unix.EPROTO
	}
	c.request = c.request[:0]
	connection := "keep-alive"
	if last {
		connection = "close"
	}
	c.pending = fmt.Appendf(c.pending[:0], "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n", size, connection)
	c.last, c.unsent = last, int64(len(c.pending))+size
	// A small body goes with its head, as every server does it.
	if size <= 4096 {
		c.pending = append(c.pending, t.zeros[:size]...)
	}
	return t.httpAnswer(c)
}

// httpAnswer writes, as answer does.
func (t *target) httpAnswer(c *served) unix.Errno {
	b := t.zeros
	if len(c.pending) > 0 {
		b = c.pending
	}
	n, e := write(c.fd, b[:min(int64(len(b)), c.unsent)])
	if e != 0 {
		return e
	}
	c.unsent -= int64(n)
	if len(c.pending) > 0 {
		c.pending = c.pending[n:]
	}
	if c.unsent == 0 && c.last {
		return unix.EPIPE
	}
	return 0
}

// parseRequest reads the size wanted out of a request's head, and whether it is
// to be the last of its connection.
func parseRequest(head []byte) (size int64, last, ok bool) {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	path, version, _ := bytes.Cut(bytes.TrimPrefix(line, []byte("GET /")), []byte(" "))
	size, err := strconv.ParseInt(string(path), 10, 64)
	if err != nil || size < 0 || len(path) == len(line) {
		return 0, false, false
	}
	last = string(version) == "HTTP/1.0"
	for field := range bytes.Lines(rest) {
		name, value, _ := bytes.Cut(bytes.TrimRight(field, "\r\n"), []byte(":"))
		if bytes.EqualFold(name, []byte("Connection")) {
			last = bytes.EqualFold(bytes.TrimSpace(value), []byte("close")) || last && !bytes.EqualFold(bytes.TrimSpace(value), []byte("keep-alive"))
		}
	}
	return size, last, true
}
