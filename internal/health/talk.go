package health

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	errNoAnswer = errors.New("closed without an answer")
	errCutShort = errors.New("the answer is cut short")
)

// talk is one conversation with a server. At most maxAnswer bytes of what the
// server says are read, and it does not matter in which pieces they come.
type talk struct {
	*bufio.Reader
	in  *noting
	out io.Writer
}

func newTalk(c io.ReadWriter) *talk {
	in := &noting{r: io.LimitReader(c, maxAnswer)}
	return &talk{bufio.NewReader(in), in, c}
}

// say sends b.
func (t *talk) say(b []byte) error {
	_, err := t.out.Write(b)
	return err
}

// full fills p with what the server says.
func (t *talk) full(p []byte) error {
	_, err := io.ReadFull(t.Reader, p)
	return t.why(err)
}

// why is err in words of ours where it is the end of what the server says.
func (t *talk) why(err error) error {
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case t.in.n == 0:
		return errNoAnswer
	}
	return errCutShort
}

// text is what the server says up to the next line feed, without the line's end.
// Of a line that is longer than most bytes the rest is left.
func (t *talk) text(most int) (string, error) {
	var b []byte
	for len(b) < most {
		c, err := t.ReadByte()
		if err != nil {
			return string(b), t.why(err)
		}
		if c == '\n' {
			if n := len(b); n > 0 && b[n-1] == '\r' {
				b = b[:n-1]
			}
			break
		}
		b = append(b, c)
	}
	return string(b), nil
}

// noting is r with what came of it. Parsers over it may hide why there are no
// more bytes.
type noting struct {
	r   io.Reader
	n   int
	err error
}

func (r *noting) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += n
	r.err = err
	return n, err
}

// unexpected is the error for an answer that is another than that of the
// protocol.
func unexpected(want string, got []byte) error {
	return fmt.Errorf("expected %s, got %s", want, show(got))
}

// says is the error for a server that explains itself; code is its own.
func says(text, code string) error {
	return fmt.Errorf("the server says: %s (%s)", printable(text), code)
}

// show is the beginning of b in quotes.
func show(b []byte) string {
	const most = 40
	if len(b) > most {
		return strconv.Quote(string(b[:most])) + "…"
	}
	return strconv.Quote(string(b))
}

// printable is text of a server's, short and in one line.
func printable(text string) string {
	const most = 200
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
