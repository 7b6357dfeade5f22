package h1

// Response is the head of a response.
type Response struct {
	Head
	Status int
	Reason []byte // with whatever the server wrote; may be empty
}

// Parse reads a whole head, as far as End found it: the response to a HEAD
// request, where head is set. b must not change while r is in use.
func (r *Response) Parse(b []byte, head bool) error {
	at, err := r.statusLine(b)
	if err != nil {
		return err
	}
	if err := r.fields(b, at); err != nil {
		return err
	}
	if err := r.common(); err != nil {
		return err
	}
	r.frame(head)
	return nil
}

// statusLine reads "HTTP/1.1 200 OK". The space behind the status is optional,
// as some servers leave it out with the reason.
func (r *Response) statusLine(b []byte) (next int, err error) {
	const shortest = len("HTTP/1.1 200\r\n")
	if len(b) < shortest {
		return 0, ErrStatusLine
	}
	if r.Old, err = versionOf(b[:8]); err != nil {
		return 0, ErrStatusLine
	}
	status := 0
	for _, c := range b[9:12] {
		if c < '0' || c > '9' {
			return 0, ErrStatusLine
		}
		status = status*10 + int(c-'0')
	}
	if b[8] != ' ' || status < 100 {
		return 0, ErrStatusLine
	}
	r.Status = status
	p := 12
	if b[p] == ' ' {
		p++
	} else if b[p] != '\r' {
		return 0, ErrStatusLine
	}
	begin := p
	for isValue[b[p]] {
		p++
	}
	if b[p] != '\r' || b[p+1] != '\n' {
		return 0, ErrStatusLine
	}
	r.Reason = b[begin:p]
	return p + 2, nil
}

// frame says how the body ends (RFC 9112, section 6.3). After one that is
// delimited by the end of the connection there is nothing more.
func (r *Response) frame(head bool) {
	switch {
	case head, r.Bodiless():
		r.Body, r.Length = None, 0
	case r.Body == None:
		r.Body = UntilClose
		r.Persist = false
	}
}

// Bodiless tells whether a response of that status never has a body. Fields that
// speak of one are left out of 1xx and 204 (RFC 9110, section 8.6), but belong
// to a 304.
func (r *Response) Bodiless() bool {
	return r.Status < 200 || r.Status == 204 || r.Status == 304
}
