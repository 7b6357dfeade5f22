package health

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"midspan/internal/plan"
)

// step is what a server of a script reads, to the byte, and says then.
type step struct{ reads, says string }

// played is how a script went from the server's side.
type played struct {
	wrong string // what came in place of what the script has
	end   error  // nil: the client ended the connection in the orderly way
}

// script is a server that plays steps, and then waits for the client's end.
func script(steps []step, bytewise bool, done chan<- played) func(net.Conn) {
	return func(c net.Conn) {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		var p played
		for _, s := range steps {
			got := make([]byte, len(s.reads))
			n, err := io.ReadFull(c, got)
			if string(got[:n]) != s.reads {
				p.wrong = fmt.Sprintf("%q (%v) in place of %q", got[:n], err, s.reads)
				break
			}
			if bytewise {
				for i := range len(s.says) {
					io.WriteString(c, s.says[i:i+1])
					if i < 100 { // long enough for the pieces to be read one by one
						time.Sleep(time.Millisecond)
					}
				}
			} else {
				io.WriteString(c, s.says)
			}
		}
		rest, err := io.ReadAll(c)
		if len(rest) > 0 && p.wrong == "" {
			p.wrong = fmt.Sprintf("%q after the end of the script", rest)
		}
		p.end = err
		done <- p
	}
}

// exchange is one case: the script, and what the test makes of it.
type exchange struct {
	name  string
	steps []step
	want  string // of the error; "": passes
}

// playAll plays every case, with the server's words in one piece and byte by
// byte, all at the same time.
func playAll(t *testing.T, check plan.Check, cases []exchange) {
	t.Helper()
	var all sync.WaitGroup
	for _, c := range cases {
		patience := 20 * time.Second                                                                     // byte by byte takes its time on a busy machine
		if strings.Contains(c.want, "no answer in ") || check.Kind == plan.CheckExpect && c.want != "" { // what is wanted might still come
			patience = 4 * time.Second
		}
		for _, bytewise := range []bool{false, true} {
			done := make(chan played, 1)
			server := serve(t, script(c.steps, bytewise, done))
			all.Go(func() {
				_, err := probeOnce(server, check, patience)
				switch {
				case c.want == "" && err != nil:
					t.Errorf("%s (bytewise: %t): failed: %v", c.name, bytewise, err)
				case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
					t.Errorf("%s (bytewise: %t): error is %v, want %s", c.name, bytewise, err, c.want)
				}
				if p := <-done; p.wrong != "" || p.end != nil {
					t.Errorf("%s (bytewise: %t): the server got %s; the connection ended with %v", c.name, bytewise, p.wrong, p.end)
				}
			})
		}
	}
	all.Wait()
}

const ping = "*1\r\n$4\r\nPING\r\n"

func TestRedis(t *testing.T) {
	t.Parallel()
	playAll(t, plan.Check{Kind: plan.CheckRedis}, []exchange{
		{"pong", []step{{ping, "+PONG\r\n"}}, ""},
		{"wants a password", []step{{ping, "-NOAUTH Authentication required.\r\n"}}, ""},
		{"wanted a password in 2.6", []step{{ping, "-ERR operation not permitted\r\n"}}, ""},
		{"may not ping", []step{{ping, "-NOPERM this user has no permissions to run the 'ping' command\r\n"}}, ""},
		{"loads", []step{{ping, "-LOADING Redis is loading the dataset in memory\r\n"}}, "redis: the server says: Redis is loading the dataset in memory (LOADING)"},
		{"has lost its primary", []step{{ping, "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n"}}, "redis: the server says: Link with MASTER is down"},
		{"is full", []step{{ping, "-ERR max number of clients reached\r\n"}}, "redis: the server says: max number of clients reached (ERR)"},
		{"is in protected mode", []step{{"", "-DENIED Redis is running in protected mode because protected mode is enabled\r\n"}, {ping, ""}}, "redis: the server says: Redis is running in protected mode because protected mode is enabled (DENIED)"},
		{"another protocol", []step{{ping, "HTTP/1.1 400 Bad Request\r\n\r\n"}}, `redis: expected "+PONG", got "HTTP/1.1 400 Bad Request"`},
		{"an error without a text", []step{{ping, "-\r\n"}}, `redis: expected "+PONG", got "-"`},
		{"no line's end", []step{{ping, "+PONG"}}, "redis: no answer in "},
		{"a line without end", []step{{ping, "+" + strings.Repeat("x", 600)}}, `redis: expected "+PONG", got "+xxxx`},
		{"says nothing", []step{{ping, ""}}, "redis: no answer in "},
	})
}

func kafkaAnswer(mark uint32, code uint16, body string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(6+len(body)))
	b = binary.BigEndian.AppendUint32(b, mark)
	return string(binary.BigEndian.AppendUint16(b, code)) + body
}

func TestKafka(t *testing.T) {
	t.Parallel()
	ask := "\x00\x00\x00\x17" + "\x00\x12\x00\x00" + "mids" + "\x00\x0d" + "midspan-check"
	versions := "\x00\x00\x00\x01\x00\x12\x00\x00\x00\x03"
	playAll(t, plan.Check{Kind: plan.CheckKafka}, []exchange{
		{"versions", []step{{ask, kafkaAnswer(kafkaMark, 0, versions)}}, ""},
		{"unsupported version", []step{{ask, kafkaAnswer(kafkaMark, 35, versions)}}, ""},
		{"another error", []step{{ask, kafkaAnswer(kafkaMark, 0xffff, "\x00\x00\x00\x00")}}, "kafka: the server says: no to ApiVersions (error code -1)"},
		{"another answer", []step{{ask, kafkaAnswer(7, 0, versions)}}, `kafka: expected an answer to ApiVersions, got "\x00\x00\x00\x10\x00\x00\x00\a\x00\x00"`},
		{"another protocol", []step{{ask, "HTTP/1.1 400 Bad Request\r\n\r\n"}}, `kafka: expected an answer to ApiVersions, got "HTTP/1.1 4"`},
		{"promises more", []step{{ask, kafkaAnswer(kafkaMark, 0, versions)[:12]}}, "kafka: no answer in "},
		{"too much", []step{{ask, "\x00\x01\x00\x00mids\x00\x00"}}, "kafka: expected an answer to ApiVersions"},
	})
}

func TestTDS(t *testing.T) {
	t.Parallel()
	// The request and the answer of MS-TDS sections 4.1 and 4.2, but for the
	// versions, the thread, and encryption, which is off here.
	const (
		ask    = "\x12\x01\x00\x2f\x00\x00\x01\x00\x00\x00\x1a\x00\x06\x01\x00\x20\x00\x01\x02\x00\x21\x00\x01\x03\x00\x22\x00\x04\x04\x00\x26\x00\x01\xff\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
		answer = "\x04\x01\x00\x2b\x00\x00\x01\x00\x00\x00\x1a\x00\x06\x01\x00\x20\x00\x01\x02\x00\x21\x00\x01\x03\x00\x22\x00\x00\x04\x00\x22\x00\x01\xff\x09\x00\x07\xd0\x00\x00\x01\x00\x00"
	)
	change := func(at int, b byte) string { return answer[:at] + string([]byte{b}) + answer[at+1:] }
	playAll(t, plan.Check{Kind: plan.CheckTDS}, []exchange{
		{"answer", []step{{ask, answer}}, ""},
		{"demands encryption", []step{{ask, change(40, 3)}}, ""},
		{"encrypts in a way that there is not", []step{{ask, change(40, 9)}}, "tds: expected a TDS pre-login answer, got "},
		{"a token stream", []step{{ask, "\x04\x01\x00\x0b\x00\x00\x01\x00\xaa\x00\x00"}}, `tds: expected a TDS pre-login answer, got "\x04\x01\x00\v\x00\x00\x01\x00\xaa\x00\x00"`},
		{"a value outside the packet", []step{{ask, change(10, 0xff)}}, "tds: expected a TDS pre-login answer"},
		{"another type", []step{{ask, change(0, 0x12)}}, "tds: expected a TDS pre-login answer"},
		{"no option", []step{{ask, "\x04\x01\x00\x09\x00\x00\x01\x00\xff"}}, "tds: expected a TDS pre-login answer"},
		{"a size below the header's", []step{{ask, "\x04\x01\x00\x08\x00\x00\x01\x00"}}, "tds: expected a TDS pre-login answer"},
		{"promises more", []step{{ask, answer[:20]}}, "tds: no answer in "},
		{"another protocol", []step{{ask, "HTTP/1.1 400 Bad Request\r\n\r\n"}}, `tds: expected a TDS pre-login answer, got "HTTP/1.1"`},
	})
}

func TestExpect(t *testing.T) {
	t.Parallel()
	playAll(t, plan.Check{Kind: plan.CheckExpect, Send: "version\r\n", Expect: "VERSION 1"}, []exchange{
		{"answer", []step{{"version\r\n", "VERSION 1.6.18\r\n"}}, ""},
		{"after other words", []step{{"version\r\n", "VERSION VERSION VERSION 1\r\n"}}, ""},
		{"far behind", []step{{"version\r\n", strings.Repeat("V", 5000) + "VERSION 1"}}, ""},
		{"another answer", []step{{"version\r\n", "ERROR\r\n"}}, `expect: expected "VERSION 1", got "ERROR\r\n"`},
		{"nothing", []step{{"version\r\n", ""}}, "expect: no answer in "},
	})
	playAll(t, plan.Check{Kind: plan.CheckExpect, Expect: "\x00\xff"}, []exchange{
		{"speaks first", []step{{"", "hello\x00\xff"}}, ""},
		{"says something else", []step{{"", "\xff\x00"}}, `expect: expected "\x00\xff", got "\xff\x00"`},
	})
	t.Run("too much", func(t *testing.T) {
		flood := answer("x" + strings.Repeat("x", 2*maxAnswer) + "y")
		_, err := probeOnce(serve(t, flood), plan.Check{Kind: plan.CheckExpect, Send: "go", Expect: "y"}, 5*time.Second)
		if err == nil || !strings.HasPrefix(err.Error(), `expect: expected "y", got "xxx`) {
			t.Errorf("error is %v", err)
		}
	})
}

// TestEnds: a server that ends the connection at every place of its answer, in
// order and by a reset. Nothing of that may pass, or be told in other words.
func TestEnds(t *testing.T) {
	for kind, whole := range wholeAnswers() {
		for _, cut := range []int{0, 1, len(whole) / 2, len(whole) - 1} {
			in := newTalk(&oneSided{in: strings.NewReader(whole[:cut])})
			err := converse(kind, in)
			want := errCutShort
			if cut == 0 {
				want = errNoAnswer
			}
			if kind == plan.CheckMySQL && cut > len(mysqlHello) {
				want = errMySQLEnded
			}
			if !errors.Is(err, want) {
				t.Errorf("%s, %d of %d bytes: error is %v, want %v", kind, cut, len(whole), err, want)
			}
			broken := newTalk(&oneSided{in: io.MultiReader(strings.NewReader(whole[:cut]), iotest.ErrReader(net.ErrClosed))})
			if err := converse(kind, broken); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s, %d of %d bytes, then an error: %v", kind, cut, len(whole), err)
			}
		}
		if err := converse(kind, newTalk(&oneSided{in: strings.NewReader(whole)})); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// wholeAnswers are all that a server says in a test that passes.
func wholeAnswers() map[plan.CheckKind]string {
	return map[plan.CheckKind]string{
		plan.CheckRedis:    "+PONG\r\n",
		plan.CheckKafka:    kafkaAnswer(kafkaMark, 0, "\x00\x00\x00\x00"),
		plan.CheckTDS:      "\x04\x01\x00\x1a\x00\x00\x01\x00\x00\x00\x0b\x00\x06\x01\x00\x11\x00\x01\xff\x09\x00\x07\xd0\x00\x00\x00",
		plan.CheckMySQL:    mysqlHello + mysqlBytes(2, mysqlDenied),
		plan.CheckPostgres: pgBytes('R', "\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"),
	}
}

func converse(kind plan.CheckKind, k *talk) error {
	switch kind {
	case plan.CheckRedis:
		return askRedis(k)
	case plan.CheckKafka:
		return askKafka(k)
	case plan.CheckTDS:
		return askTDS(k)
	case plan.CheckMySQL:
		return askMySQL(k)
	case plan.CheckPostgres:
		return askPostgresLogin(k)
	}
	panic(kind)
}

// oneSided is a peer that says what it has to say, whatever it is told.
type oneSided struct {
	in  io.Reader
	out bytes.Buffer
}

func (o *oneSided) Read(p []byte) (int, error)  { return o.in.Read(p) }
func (o *oneSided) Write(p []byte) (int, error) { return o.out.Write(p) }

// The bytes that were read count, and not those that the reader holds already.
func TestBound(t *testing.T) {
	endless := &oneSided{in: endlessReader{}}
	for kind := range wholeAnswers() {
		if err := converse(kind, newTalk(endless)); err == nil {
			t.Errorf("%s: zeros without end pass", kind)
		}
	}
	k := newTalk(endless)
	n, err := io.Copy(io.Discard, k)
	if n != maxAnswer || err != nil {
		t.Errorf("%d bytes were read, %v; want %d", n, err, maxAnswer)
	}
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
