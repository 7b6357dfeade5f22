package health

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"

	"midspan/internal/plan"
)

// maxInterim bounds the 1xx answers before the real one.
const maxInterim = 4

var errNotHTTP = errors.New("the answer is not HTTP")

// askHTTP asks for a page by HTTP/1.1 (RFC 9112), and looks at the status of the
// answer and, where that is wanted, for a text in its body.
func askHTTP(k *talk, t Target) error {
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		t.Check.Path, hostHeader(t), ourName)
	if err := k.say([]byte(request)); err != nil {
		return err
	}
	answer, err := k.head()
	if err != nil {
		return err
	}
	if !t.Check.Status.Has(answer.StatusCode) {
		return fmt.Errorf("status %d, not %s", answer.StatusCode, t.Check.Status)
	}
	if t.Check.Expect == "" {
		return nil
	}
	return k.find(answer.Body, string(t.Check.Expect))
}

// head is the head of the answer: the first that is no interim one.
func (t *talk) head() (*http.Response, error) {
	for range maxInterim {
		answer, err := http.ReadResponse(t.Reader, nil)
		switch {
		// The parser takes bytes that end without a line's end for a bad line.
		case err != nil && t.in.err != nil:
			return nil, t.why(t.in.err)
		case err != nil:
			return nil, errNotHTTP
		case answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols:
			return answer, nil
		}
	}
	return nil, errNotHTTP
}

// find reads r until it has had want.
func (t *talk) find(r io.Reader, want string) error {
	var seen []byte
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(buf)
		from := max(0, len(seen)-len(want)+1)
		seen = append(seen, buf[:n]...)
		switch {
		case bytes.Contains(seen[from:], []byte(want)):
			return nil
		case err == nil:
		case len(seen) > 0, errors.Is(err, io.EOF) && t.in.n > 0:
			return unexpected(show([]byte(want)), seen)
		default:
			return t.why(err)
		}
	}
}

// hostHeader is the Host of the request. A default port is not looked for: the
// name is what virtual hosts are told apart by.
func hostHeader(t Target) string {
	host := t.Check.Host
	if host == "" {
		host = hostOf(t)
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	return host
}

// hostOf is the server's name, or its address where it has none.
func hostOf(t Target) string {
	if t.Host != "" {
		return t.Host
	}
	return t.Addr.Addr().WithZone("").String()
}

// askExpect sends bytes, if there are any to be sent, and waits for others.
func askExpect(k *talk, c plan.Check) error {
	if c.Send != "" {
		if err := k.say([]byte(c.Send)); err != nil {
			return err
		}
	}
	return k.find(k, string(c.Expect))
}
