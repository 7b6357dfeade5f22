package foreign

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"midspan/internal/config"
)

// IPForward imports command lines of ip_fwd.sh: one, or a script with many.
func IPForward(name string, data []byte) (*Import, error) {
	imp, _, err := importIPForward(name, data)
	return imp, err
}

// ipForward is the import of one script.
type ipForward struct {
	*builder
	sh *shell
}

func importIPForward(name string, data []byte) (*Import, *ledger, error) {
	const wanted = "no command line of ip_fwd.sh (ip_fwd.sh -i eth0 -f 9092 -a kafka1.example.com -b 9092) was found"
	text, err := readable(name, data, "command lines of ip_fwd.sh are expected")
	if err != nil {
		return nil, nil, err
	}
	p := &ipForward{builder: newBuilder(name, "ip_fwd.sh")}
	if hint := otherFormat(text, formatIPFwd); hint != "" {
		p.problem(p.start(), "%s%s", wanted, hint)
		return nil, p.ledger, p.failed()
	}
	p.sh = &shell{ledger: p.ledger, name: name, text: text, vars: map[string]string{}}
	p.sh.commands(p.command)
	p.inKernel()
	if len(p.file.Routes) > 0 {
		p.notes.Addf(p.file.Routes[0].Name.Pos, "ip_fwd.sh forwards to the addresses that a name had when it ran, and masquerades all that leaves this machine; midspan follows the name by its TTL, and masquerades what it forwards. Remove the old rules, or they take the packets first: iptables-save | grep -e DNAT -e MASQUERADE")
	}
	imp, err := p.finish(text, formatIPFwd, wanted)
	return imp, p.ledger, err
}

// command handles one command of the script.
func (p *ipForward) command(c command) {
	words := c.words
	if p.assignments(c) {
		return
	}
	i := forwarder(words)
	if i < 0 {
		p.other(c)
		return
	}
	f, ok := p.flags(c, words[i:])
	if !ok {
		c.noted = true
		return
	}
	p.carry(c.stmt)
	if c.after == "||" {
		p.note(c.stmt, "%s is carried over, though the script runs it only if the command before it fails", c)
	}
	p.forward(c, f)
}

// assignments handles a command that only sets variables.
func (p *ipForward) assignments(c command) bool {
	words := c.words
	if slices.Contains([]string{"export", "readonly", "local", "declare", "typeset"}, words[0].text) {
		words = slices.DeleteFunc(slices.Clone(words[1:]), func(w word) bool { return strings.HasPrefix(w.text, "-") })
	}
	for _, w := range words {
		if name, _, ok := strings.Cut(w.text, "="); !ok || name == "" || strings.Trim(name, nameBytes) != "" {
			return false
		}
	}
	for _, w := range words {
		name, value, _ := strings.Cut(w.text, "=")
		delete(p.sh.vars, name)
		if w.env == "" && len(value) <= maxShellWord {
			p.sh.vars[name] = value
			p.carry(c.stmt)
		} else {
			p.note(c.stmt, "%s is not evaluated: the importer runs nothing, so a forwarding that uses %s could not be read", c, printable(name))
		}
	}
	return len(words) > 0
}

const nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

// before are words that may stand before the command that is really run; the
// last two in a line of /etc/crontab.
var before = []string{"sudo", "bash", "sh", "dash", "env", "exec", "nohup", "time", "source", ".", "then", "do", "else", "{", "(", "!", "command", "nice", "@reboot", "root"}

// forwarder is the index of the word that is ip_fwd.sh in the place of a
// command, or -1: in `chmod +x ip_fwd.sh` it is an argument.
func forwarder(words []word) int {
	for i, w := range words {
		base := path.Base(strings.TrimLeft(w.text, "({"))
		name, _, isVar := strings.Cut(w.text, "=")
		switch {
		case strings.HasPrefix(base, "ip_fwd") && !strings.ContainsAny(base, " \t\n"):
			return i
		case slices.Contains(before, base) || slices.Contains(before, w.text):
		case strings.HasPrefix(w.text, "-"): // a flag of sudo or bash
		case isVar && name != "" && strings.Trim(name, nameBytes) == "": // A=B command
		default:
			return -1
		}
	}
	return -1
}

// forwarding are the flags of ip_fwd.sh.
type forwarding struct {
	iface, frontend, host, backend word
}

// flags reads them as getopts does: -f 9092 or -f9092, up to the first word
// that is none. Of a flag that stands twice, the last counts.
func (p *ipForward) flags(c command, words []word) (f forwarding, ok bool) {
	ok = true
	fail := func(pos config.Pos, format string, args ...any) {
		p.problem(pos, format, args...)
		ok = false
	}
	at := map[byte]*word{'i': &f.iface, 'f': &f.frontend, 'a': &f.host, 'b': &f.backend}
	i := 1
	for ; i < len(words) && len(words[i].text) > 1 && words[i].text[0] == '-'; i++ {
		w := words[i]
		if w.text == "--" {
			i++
			break
		}
		flag := at[w.text[1]]
		value := w
		value.text = w.text[2:]
		switch {
		case flag == nil:
			fail(w.pos, "%s is not a flag of ip_fwd.sh; it has -i INTERFACE -f FRONTEND_PORT -a HOST -b BACKEND_PORT", quote(w.text))
			continue
		case len(w.text) == 2 && i+1 >= len(words):
			fail(w.pos, "%s needs a value", w.text)
			continue
		case len(w.text) == 2:
			i++
			value = words[i]
		}
		*flag = value
		if value.env != "" {
			fail(value.pos, "the value of %s is not known here: the script does not set it to a plain value; write it out, then import again", printable(value.env))
		}
	}
	if i < len(words) && !redirection(words[i].text) {
		p.note(c.stmt, "%s: %s after the flags is not read, as ip_fwd.sh does not read it", c, quote(phrase(words[i:])))
	}
	for _, m := range []struct {
		flag, what string
		w          word
	}{{"-i", "the interface", f.iface}, {"-f", "the frontend port", f.frontend}, {"-a", "the host", f.host}, {"-b", "the backend port", f.backend}} {
		if m.w.text == "" && ok {
			fail(c.pos, "%s: %s (%s) is missing", c, m.flag, m.what)
		}
	}
	return f, ok
}

// redirection tells whether output goes elsewhere from here on.
func redirection(s string) bool {
	return strings.HasPrefix(strings.TrimLeft(s, "012"), ">") || strings.HasPrefix(s, "<")
}

// forward makes a route.
func (p *ipForward) forward(c command, f forwarding) {
	for _, w := range []word{f.frontend, f.backend} {
		if n, err := strconv.ParseUint(w.text, 10, 16); err != nil || n == 0 {
			p.problem(w.pos, "%s: %s is not a port (1 to 65535)", c, quote(w.text))
			return
		}
	}
	l, err := listenOn("", f.iface.text, f.frontend.text)
	if err != nil {
		p.problem(f.iface.pos, "%s: %s is not the name of a network interface", c, quote(f.iface.text))
		return
	}
	t, err := target(f.host.text, f.backend.text)
	if err != nil {
		p.problem(f.host.pos, "%s: %s", c, printable(err.Error()))
		return
	}
	if !p.room(1, 1) {
		return
	}
	if m := p.taken(l); m != nil {
		p.note(c.stmt, "%s is not carried over: line %d forwards the port already, and of iptables' rules the first wins", c, m.line)
		return
	}
	p.route(config.Route{
		Comment: fmt.Sprintf("%s:%d: %s", c.pos.File, c.pos.Line, oneLine(c.raw, 160)),
		Name:    config.At(hostName(t), c.pos),
		Listen:  []config.Field[config.Listen]{config.At(l, f.frontend.pos)},
		To:      []config.Server{{Target: config.At(t, f.host.pos)}},
	})
}

// Commands of a script that need no note: they forward nothing and say
// nothing about forwarding.
var shellNoise = []string{"set", "fi", "done", "esac", "}", ")", "then", "do", "else", "{", "(", ";;", "exit", "return", "true", ":"}

// setup are commands whose effect is part of what midspan or its package does.
var setup = map[string]string{
	"sysctl": "midspan sets what forwarding in the kernel needs",
	"chmod":  "midspan is one binary", "chown": "midspan is one binary", "cp": "midspan is one binary", "mv": "midspan is one binary", "install": "midspan is one binary",
	"wget": "midspan is one binary", "curl": "midspan is one binary", "git": "midspan is one binary",
	"apt": "midspan needs no packages", "apt-get": "midspan needs no packages", "yum": "midspan needs no packages", "dnf": "midspan needs no packages", "zypper": "midspan needs no packages",
	"echo": "it only prints", "printf": "it only prints", "sleep": "it only waits", "cd": "paths do not matter to midspan", "date": "it only prints", "logger": "it only logs",
	"iptables-save": "midspan's file is what persists", "netfilter-persistent": "midspan's file is what persists",
}

// other handles a command that is not ip_fwd.sh.
func (p *ipForward) other(c command) {
	words := c.words
	for len(words) > 1 && (slices.Contains(before, words[0].text) || strings.HasPrefix(words[0].text, "-")) {
		words = words[1:]
	}
	name := path.Base(words[0].text)
	switch why, known := setup[name]; {
	case slices.Contains(shellNoise, name):
		p.carry(c.stmt)
	case slices.Contains([]string{"for", "while", "until", "if", "case", "elif"}, name):
		p.note(c.stmt, "%s is not evaluated: each command line of ip_fwd.sh is read as if it ran once", c)
	case name == "iptables" || name == "ip6tables":
		p.lost(c.stmt, "import the output of iptables-save with `midspan import iptables`")
	case known && name == "echo" && strings.Contains(c.raw, "ip_forward"):
		p.needless(c.stmt, setup["sysctl"])
	case known:
		p.needless(c.stmt, why)
	default:
		p.lost(c.stmt, "it is not a command line of ip_fwd.sh")
	}
}
