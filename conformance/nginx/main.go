// Command nginx behaves as an nginx binary to the public test suite of nginx
// (github.com/nginx/nginx-tests), so that its stream_*.t files judge midspan. It
// is no part of the product.
//
// What midspan does: every byte of a connection goes through midspan's relay.
// The configuration becomes a midspan.yaml by midspan's own importer, is
// checked by midspan's plan, and run by midspan's daemon, in this process.
// Listening, `allow` and `deny`, PROXY headers in and out, choosing by the name
// in a ClientHello, TLS with clients and with servers, limits, balancing, failover
// and fall, time-outs, half-close, reload and drain are midspan's. The addresses,
// bytes, servers and outcomes in variables and logs are those of midspan's
// access records and of the PROXY header that midspan sends.
//
// What this front does: it takes nginx's arguments and signals, writes its pid
// file and its logs; it works out variables (map, geo, split_clients, set) and
// resolves those of proxy_pass that are known before a client comes; it answers
// for `return`, as a server behind a route that sends PROXY headers of version 2;
// it is the web server that tests have behind the proxy (`http`); it decrypts
// private keys, since midspan takes plain ones; it bridges Unix sockets to TCP, since
// midspan has TCP only, with 127.255.0.1 as the address of Unix clients. Where the
// importer does not carry a directive over that midspan has a key for, it writes
// that key: what is appended to route.patch.
//
// What neither does is refused as nginx refuses a directive of a module that it
// was built without (directives.go), so that tests of it skip themselves, or is
// ignored and noted in the error log, so that tests of it fail. docs/conformance.md
// lists every file of the suite with how it ends and why.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// nginxVersion is the version of nginx whose behaviour is claimed.
const nginxVersion = "1.29.1"

// modules are what -V tells: true of what midspan and this front do together.
const modules = `--with-stream --with-stream_ssl_module --with-stream_ssl_preread_module --with-stream_realip_module ` +
	`--with-http_ssl_module --without-stream_pass_module --without-stream_upstream_least_time_module ` +
	`--without-mail_pop3_module --without-mail_imap_module --without-mail_smtp_module`

// options are nginx's arguments.
type options struct {
	prefix   string
	file     string
	errorLog string
	globals  string
	version  bool // -v or -V
	modules  bool // -V
	test     bool // -t or -T
	dump     bool // -T
	quiet    bool
}

// parseOptions reads arguments as nginx does: letters may be joined, and a
// value may follow its letter at once or as the next argument.
func parseOptions(args []string) (*options, error) {
	o := &options{prefix: "/usr/local/nginx/", file: "conf/nginx.conf", errorLog: "logs/error.log"}
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") {
			return nil, fmt.Errorf("invalid option: %q", args[i])
		}
		for letters := args[i][1:]; letters != ""; {
			letter := letters[0]
			letters = letters[1:]
			at := map[byte]*string{'p': &o.prefix, 'c': &o.file, 'e': &o.errorLog, 'g': &o.globals}[letter]
			switch {
			case at != nil && letters != "":
				*at, letters = letters, ""
			case at != nil && i+1 < len(args):
				i++
				*at = args[i]
			case at != nil:
				return nil, fmt.Errorf("option \"-%c\" requires a value", letter)
			case !o.flag(letter):
				return nil, fmt.Errorf("invalid option: \"%c\"", letter)
			}
		}
	}
	if g := strings.TrimSpace(o.globals); g != "" && !strings.HasSuffix(g, ";") {
		o.globals += ";"
	}
	return o, nil
}

func (o *options) flag(letter byte) bool {
	switch letter {
	case 'v':
		o.version = true
	case 'V':
		o.version, o.modules = true, true
	case 't':
		o.test = true
	case 'T':
		o.test, o.dump = true, true
	case 'q':
		o.quiet = true
	default:
		return false
	}
	return true
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args)
	if err != nil {
		fmt.Fprintf(stderr, "nginx: %v\n", err)
		return 1
	}
	if o.version {
		fmt.Fprintf(stderr, "nginx version: nginx/%s (midspan behind a front for nginx's tests; no nginx)\n", nginxVersion)
		if o.modules {
			fmt.Fprintf(stderr, "TLS SNI support enabled\nconfigure arguments: %s\n", modules)
		}
		return 0
	}
	f := newFront(o, stderr)
	if o.test {
		return f.test(stdout)
	}
	if err := f.run(); err != nil {
		f.log.printf(levelEmerg, "%v", err)
		fmt.Fprintf(stderr, "nginx: [emerg] %v\n", err)
		return 1
	}
	return 0
}

// test is -t and -T: read the configuration, check it as a start would, and say
// so.
func (f *front) test(stdout io.Writer) int {
	c, err := readConf(f.options)
	if err == nil {
		err = f.check(c)
	}
	name := filepath.Join(f.options.prefix, f.options.file)
	if err != nil {
		fmt.Fprintf(f.stderr, "nginx: [emerg] %v\nnginx: configuration file %s test failed\n", err, name)
		return 1
	}
	if !f.options.quiet {
		fmt.Fprintf(f.stderr, "nginx: the configuration file %s syntax is ok\nnginx: configuration file %s test is successful\n", name, name)
	}
	if f.options.dump {
		fmt.Fprint(stdout, c.dump)
	}
	return 0
}

// check makes a plan of c, and nothing of the plan.
func (f *front) check(c *conf) error {
	e, err := newEnds(f)
	if err != nil {
		return err
	}
	defer e.close()
	t := &translation{conf: c, ends: e, zones: map[string]bool{}}
	_, _, err = t.plan()
	return errors.Join(err, f.checkHTTP(c))
}
