package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"midspan/internal/config"
	"midspan/internal/plan"
)

const root = "../.."

// documents are all the texts that show files or commands.
func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*.md"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, names...)
	}
	if len(all) < 5 {
		t.Fatalf("only %d documents", len(all))
	}
	return all
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// blocks are the fenced blocks of a document that are in a language.
func blocks(t *testing.T, file, language string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		if m[1] == language {
			out = append(out, m[2])
		}
	}
	return out
}

// warned are what files say that get a warning by intent.
var warned = regexp.MustCompile("keepalive: off|engine: nft")

// TestExamples: every example, and every file shown in a document, makes a plan
// without a problem, and without a warning unless it is meant.
func TestExamples(t *testing.T) {
	texts := map[string]string{}
	files, err := filepath.Glob(filepath.Join(root, "examples/*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		texts[f] = string(text)
	}
	for _, doc := range documents(t) {
		for i, b := range blocks(t, doc, "yaml") {
			texts[fmt.Sprintf("%s, block %d", doc, i+1)] = b
		}
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			f, err := config.Parse(name, []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if _, warnings, err := plan.New(f); err != nil || (len(warnings) > 0 && !warned.MatchString(text)) {
				t.Error(warnings, err)
			}
		})
	}
}

// TestFullExample: examples/full.yaml has every key, and those it calls
// defaults are.
func TestFullExample(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "examples/full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range schemaKeys(t) {
		if !regexp.MustCompile(`(?m)(^|[\s{])` + key + `:`).Match(text) {
			t.Errorf("the key %s is missing", key)
		}
	}
	full, err := config.Parse("full", text)
	if err != nil {
		t.Fatal(err)
	}
	least, err := config.Parse("least", []byte("routes:\n  mysql: {listen: 3306, to: \"10.79.0.82:3306\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	a, _, errA := plan.New(full)
	b, _, errB := plan.New(least)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	ra, rb := *a.Routes[0], *b.Routes[0]
	ra.Listen, ra.Servers, ra.MaxConnections = rb.Listen, rb.Servers, rb.MaxConnections
	if fmt.Sprintf("%+v", ra) != fmt.Sprintf("%+v", rb) {
		t.Errorf("the route's defaults are\n%+v\nnot\n%+v", rb, ra)
	}
	if a.Health != b.Health || a.Admin != b.Admin || a.Log != b.Log || a.Drain != b.Drain || a.NFT != b.NFT {
		t.Errorf("health, admin, log, drain or nft are no defaults: %+v, %+v", a, b)
	}
}

// schemaKeys are all keys that the file knows, but for `server`, which the short
// form of a server does without.
func schemaKeys(t *testing.T) []string {
	var schema map[string]any
	if err := json.Unmarshal(config.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if keys, ok := v["properties"].(map[string]any); ok {
				for k := range keys {
					seen[k] = true
				}
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(schema)
	delete(seen, "server")
	if len(seen) < 60 {
		t.Fatalf("only %d keys", len(seen))
	}
	return slices.Sorted(maps.Keys(seen))
}

// TestUnits: units are made of sections and assignments, and run commands that
// exist. What else systemd would say is left to systemd-analyze verify.
func TestUnits(t *testing.T) {
	var files []string
	for _, pattern := range []string{"*.service", "*.conf"} {
		names, err := filepath.Glob(filepath.Join(root, "examples", pattern))
		if err != nil || len(names) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		files = append(files, names...)
	}
	for _, f := range files {
		all := parseUnit(t, f)
		for _, a := range all {
			switch words := strings.Fields(a.value); {
			case a.key == "ExecStart":
				c, _, err := commands(standardUI()).Find(words[1:])
				if err != nil || c.Name() != words[1] || words[0] != "/usr/local/bin/midspan" {
					t.Errorf("%s: %s: %v", f, a.value, err)
				}
			case strings.HasSuffix(a.key, "Capabilities") || a.key == "CapabilityBoundingSet":
				for _, w := range words {
					if !slices.Contains([]string{"CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_NET_RAW"}, w) {
						t.Errorf("%s: capability %s", f, w)
					}
				}
			}
		}
		if drop := filepath.Ext(f) == ".conf"; !drop && !slices.ContainsFunc(all, func(a assignment) bool { return a.key == "ExecStart" }) {
			t.Errorf("%s starts nothing", f)
		}
	}
}

type assignment struct{ section, key, value string }

func parseUnit(t *testing.T, file string) (all []assignment) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	section := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		key, value, is := strings.Cut(line, "=")
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case slices.Contains([]string{"[Unit]", "[Service]", "[Install]"}, line):
			section = line
		case is && section != "" && regexp.MustCompile(`^[A-Z][A-Za-z]+$`).MatchString(key) && value == strings.TrimSpace(value):
			all = append(all, assignment{section, key, value})
		default:
			t.Errorf("%s: %q in %s", file, line, section)
		}
	}
	return all
}

// insideNamespace holds the script that the test binary runs in a network
// namespace of its own.
const insideNamespace = "MIDSPAN_TEST_DOCS_SCRIPT"

// TestDocumentedCommands runs the sh blocks of every document as one script, in
// a network namespace of its own, where ports below 1024 are free to use.
func TestDocumentedCommands(t *testing.T) {
	for _, doc := range documents(t) {
		script := strings.Join(blocks(t, doc, "sh"), "\n")
		script = regexp.MustCompile(`(?m)^make .*$`).ReplaceAllString(script, "") // .ci/run does
		if strings.TrimSpace(script) == "" {
			continue
		}
		t.Run(filepath.Base(doc), func(t *testing.T) {
			dir := t.TempDir()
			fixtures, err := filepath.Glob("testdata/docs/*")
			if err != nil || len(fixtures) == 0 {
				t.Fatal("no fixtures", err)
			}
			for _, f := range fixtures {
				text, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(self, filepath.Join(dir, "midspan")); err != nil {
				t.Fatal(err)
			}
			// A daemon in the background is waited for, as a person would.
			script = strings.ReplaceAll(script, " &\n", " > access.log &\nfor i in $(seq 100); do midspan conns > /dev/null 2>&1 && break; sleep 0.1; done\n")
			// No server is there, so the answer may be no.
			script = regexp.MustCompile(`(?m)^(midspan (?:status|doctor)[^#\n]*).*$`).ReplaceAllString(script, "$1 || test $$? = 1")
			cmd := exec.Command(self)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), insideNamespace+"=set -eu\n"+script, "PATH="+dir+":"+os.Getenv("PATH"), "MIDSPAN_CONTROL="+filepath.Join(dir, "c.sock"))
			cmd.SysProcAttr = namespace()
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v in\n%s\n%s", err, script, out)
			}
		})
	}
}

// namespace is a network and PID namespace, in which the caller is root; what
// runs in it ends with it.
func namespace() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID}
	if os.Getuid() != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return a
}

// runInside sets the loopback device up, runs the script, and exits.
func runInside(script string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	fail(err)
	ifr, err := unix.NewIfreq("lo")
	fail(err)
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(ifr))); e != 0 {
		fail(e)
	}
	cmd := exec.Command("bash", "-c", script)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	fail(cmd.Run())
	os.Exit(0)
}
