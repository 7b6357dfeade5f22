package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"midspan/internal/config"
	"midspan/internal/foreign"
	"midspan/internal/plan"
)

// importers by the name of what they read.
var importers = map[string]func(u *ui, file string) (*foreign.Import, error){
	"haproxy":  fromText(foreign.HAProxy),
	"ip_fwd":   fromText(foreign.IPForward),
	"iptables": fromText(foreign.IPTables),
	"nginx":    fromNginx,
}

func importCommand(ui *ui) *cobra.Command {
	formats := slices.Sorted(maps.Keys(importers))
	var asJSON bool
	c := &cobra.Command{
		Use:   "import " + strings.Join(formats, "|") + " [FILE]",
		Short: "Turn another program's configuration into a midspan.yaml",
		Long: `Turn another program's configuration into a midspan.yaml, on standard output.
What is not carried over, or works in another way, is said with its line: on stderr,
what widens access first, and in the file's head, which also has the lines that need
no counterpart. Without FILE, standard input is read.

  haproxy   an haproxy.cfg
  nginx     an nginx.conf, with its includes
  ip_fwd    command lines of ip_fwd.sh, one or a script of many
  iptables  the output of iptables-save`,
		Example: `  midspan import haproxy /etc/haproxy/haproxy.cfg > midspan.yaml
  iptables-save | midspan import iptables > midspan.yaml
  echo './ip_fwd.sh -i eth0 -f 9092 -a kafka1.corp.example.com -b 9092' | midspan import ip_fwd`,
		Args:      cobra.RangeArgs(1, 2),
		ValidArgs: formats,
		RunE: func(c *cobra.Command, args []string) error {
			read := importers[args[0]]
			if read == nil {
				return usageError{c, fmt.Errorf("unknown format %q; use %s", args[0], strings.Join(formats, ", "))}
			}
			file := standardInput
			if len(args) == 2 {
				file = args[1]
			}
			imported, err := read(ui, file)
			if err != nil {
				return err
			}
			return ui.imported(imported, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the file and both lists as JSON")
	return c
}

// imported prints what an import gave, after a check that it can be run.
func (u *ui) imported(i *foreign.Import, asJSON bool) error {
	text := config.Encode(withNotes(i))
	f, err := config.Parse("midspan.yaml", text)
	if err == nil {
		_, _, err = plan.New(f)
	}
	if asJSON {
		return u.json(map[string]any{"file": string(text), "notes": i.Notes.Lines(), "needless": i.Needless.Lines(), "problems": lines(err)})
	}
	if _, err := u.out.Write(text); err != nil {
		return err
	}
	u.problems("note", yellow, i.Ranked())
	u.say("%s", summary(i))
	if err != nil {
		u.fail(err)
		u.say("the file needs an edit before it can be run")
		return errNo
	}
	return nil
}

func lines(err error) []string {
	ps, _ := asProblems(err)
	return ps.Lines()
}

// summary is the line after the notes: what came of the import, and how much
// only the file's head has.
func summary(i *foreign.Import) string {
	text := count(len(i.File.Routes), "route") + ", " + count(len(i.Notes), "note")
	noun := "more line"
	if len(i.Notes) == 0 {
		noun = "line"
	}
	switch n := len(i.Needless); n {
	case 0:
	case 1:
		text += "; 1 " + noun + " needs no counterpart (the head of the file names it)"
	default:
		text += "; " + count(n, noun) + " need no counterpart (the head of the file names them)"
	}
	return text
}

// withNotes puts both lists into the file's head.
func withNotes(i *foreign.Import) *config.File {
	f := *i.File
	f.Comment += headed("Not carried over, or in another way", i.Notes) + headed("Needs no counterpart", i.Needless)
	return &f
}

func headed(title string, notes config.Problems) string {
	if len(notes) == 0 {
		return ""
	}
	return "\n\n" + title + ":\n  " + strings.Join(notes.Lines(), "\n  ")
}

func fromText(read func(name string, data []byte) (*foreign.Import, error)) func(*ui, string) (*foreign.Import, error) {
	return func(u *ui, file string) (*foreign.Import, error) {
		data, err := u.readFile(file)
		if err != nil {
			return nil, err
		}
		return read(shown(file), data)
	}
}

// fromNginx reads the main file from standard input too; its includes are
// files in any case.
func fromNginx(u *ui, file string) (*foreign.Import, error) {
	name := shown(file)
	return foreign.Nginx(name, foreign.Files{
		Open: func(path string) (io.ReadCloser, error) {
			if file == standardInput && path == name {
				return io.NopCloser(u.in), nil
			}
			return os.Open(path)
		},
		Glob: filepath.Glob,
	})
}
