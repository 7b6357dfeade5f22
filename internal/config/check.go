package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Checks are the words for a test that needs nothing else to be said. An http
// test is written by its path, a raw one by its bytes.
var Checks = []string{"off", "tcp", "tls", "tds", "mysql", "postgres", "kafka", "redis"}

// maxCheckText is how many characters `send` and `expect` may have.
const maxCheckText = 4096

// Check is the test of a server.
type Check struct {
	Kind    Field[string]        // one of Checks; not set for an http test or a raw one
	HTTP    Field[string]        // the path that is asked for
	Host    Field[string]        // the HTTP Host header, or the name in a TLS handshake
	Status  []Field[StatusRange] // of an HTTP answer that is up
	Send    Field[string]        // a raw test's; each character is one byte (U+0000 to U+00FF)
	Expect  Field[string]        // as Send; or text that an HTTP body must have
	Port    Field[int]
	Every   Field[time.Duration]
	Timeout Field[time.Duration]
	Rise    Field[int]
	Fall    Field[int]
}

// StatusRange is a range of HTTP status codes, inclusive, from 200 to 599.
type StatusRange struct{ From, To int }

func (r StatusRange) String() string {
	if r.From == r.To {
		return strconv.Itoa(r.From)
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

func parseStatus(s string) (r StatusRange, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, okA := statusCode(from)
	b, okB := statusCode(to)
	switch {
	case !okA || !okB:
		return r, fmt.Errorf("status %q: write a code (200), a range (200-399) or a list of them, from 200 to 599", clip(s))
	case b < a:
		return r, fmt.Errorf("status %q: the range ends before it starts (%d > %d)", s, a, b)
	}
	return StatusRange{a, b}, nil
}

func statusCode(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && len(s) == 3 && n >= 200 && n <= 599
}

// checkWords are other names for the checks.
var checkWords = map[string]string{
	"mssql": "tds", "sqlserver": "tds", "sql": "tds", "mariadb": "mysql", "postgresql": "postgres", "pgsql": "postgres",
	"ssl": "tls", "connect": "tcp", "none": "off", "valkey": "redis",
}

// parseCheck reads the word for a test.
func parseCheck(s string) (string, error) {
	switch {
	case slices.Contains(Checks, s):
		return s, nil
	case s == "http" || s == "https":
		return "", fmt.Errorf("an http check needs a path; write %s", httpExample)
	case s == "expect" || s == "send":
		return "", fmt.Errorf("a raw check needs what is sent and what must come; write %s", rawExample)
	case checkWords[s] != "":
		return "", fmt.Errorf("unknown check %q; it is %q here", s, checkWords[s])
	}
	hint := suggest(s, append(slices.Clone(Checks), "http", "expect"))
	return "", fmt.Errorf("unknown check %q; %s", clip(s), inFull.Replace(hint))
}

// inFull writes out what is no check by its word alone.
var inFull = strings.NewReplacer(`"http"`, httpExample, `"expect"`, rawExample, ", http, expect", ", "+httpExample+" or "+rawExample)

const (
	httpExample = "{ http: /healthz }"
	rawExample  = `{ send: "PING\r\n", expect: "+PONG" }`
)

var kCheck, kStatus = checkWord(), status()

var checkKeys = []key[Check]{
	field("kind", "off; tcp: connect and close; or the protocol whose opening is spoken: tls, tds (SQL Server), mysql, postgres, kafka, redis.", kCheck, func(c *Check) *Field[string] { return &c.Kind }),
	field("http", "GET this path.", kPath, func(c *Check) *Field[string] { return &c.HTTP }),
	field("host", "The Host header of an http check, or the name that a tls check asks for. Default: the server's host.", text("a host name"), func(c *Check) *Field[string] { return &c.Host }),
	list("status", "http: the codes that are up: 200, 200-299 or a list of these. Default: 200-399.", kStatus, func(c *Check) *[]Field[StatusRange] { return &c.Status }),
	field("send", `Send these bytes, such as "PING\r\n"; each character is a byte ("\xff" is 255).`, checkText(true), func(c *Check) *Field[string] { return &c.Send }),
	field("expect", "What the server's answer must have, or what it must say first, where nothing is sent; of http: text in the body.", checkText(false), func(c *Check) *Field[string] { return &c.Expect }),
	field("port", "Test this port instead of the server's.", kPort, func(c *Check) *Field[int] { return &c.Port }),
	field("every", "Between tests of one server. Default: 5s.", duration(10*time.Millisecond, time.Hour), func(c *Check) *Field[time.Duration] { return &c.Every }),
	field("timeout", "For one test. Default: `every`, at most 5s.", kTimeout, func(c *Check) *Field[time.Duration] { return &c.Timeout }),
	field("rise", "Passed tests in a row that make a server up. Default: 2.", integer("number of tests", 1, 100), func(c *Check) *Field[int] { return &c.Rise }),
	field("fall", "Failed tests (or connects) in a row that make a server down. Default: 3.", integer("number of tests", 1, 100), func(c *Check) *Field[int] { return &c.Fall }),
}

// checkKind is a word, or the object of checkKeys.
func checkKind() kind[Check] {
	return shorthand(kCheck, func(c *Check) *Field[string] { return &c.Kind }, checkKeys)
}

func checkWord() kind[string] {
	k := scalar("a check (tcp, mysql, { http: /healthz })", "", parseCheck, func(s string) string { return s })
	k.schema = schema{"enum": toAny(Checks)}
	return k
}

// status is a range of codes; a single one may be a number to YAML.
func status() kind[StatusRange] {
	k := scalar("a status (200 or 200-399)", `^[2-5][0-9]{2}(-[2-5][0-9]{2})?$`, parseStatus, StatusRange.String)
	return orInteger(k, 200, 599)
}

// checkText is what a test sends or waits for. Control characters are written
// with YAML's escapes, in double quotes.
func checkText(bytes bool) kind[string] {
	k := scalar(`bytes in quotes ("PING\r\n")`, "", func(s string) (string, error) {
		switch n := utf8.RuneCountInString(s); {
		case n == 0:
			return "", errors.New("the text is empty; write at least one character, or leave the key out")
		case n > maxCheckText:
			return "", fmt.Errorf("the text has %d characters; at most %d are sent or looked for", n, maxCheckText)
		}
		if r := notByte(s); bytes && r >= 0 {
			return "", fmt.Errorf(`%q is not a byte; write what it is encoded as, such as "\xc3\xa9"`, r)
		}
		return s, nil
	}, nil)
	k.schema = schema{"type": "string", "minLength": 1, "maxLength": maxCheckText}
	if bytes {
		k.schema["pattern"] = `^[\x00-\xff]*$`
	}
	k.encode = func(s string) *yaml.Node {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: s}
	}
	return k
}

// notByte is the first character of s that stands for no byte, or -1.
func notByte(s string) rune {
	for _, r := range s {
		if r > 0xff {
			return r
		}
	}
	return -1
}

// Bytes are what the characters of s stand for, one each; the rune is the first
// that stands for none, or -1.
func Bytes(s string) (string, rune) {
	if r := notByte(s); r >= 0 {
		return "", r
	}
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b), -1
}
