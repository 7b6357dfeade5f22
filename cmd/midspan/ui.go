package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"midspan/internal/config"
)

// ui is the only place that prints. Results go to out; what is said about them
// goes to err, with the program's name in front, in lower case and without a
// full stop.
type ui struct {
	in       io.Reader
	out, err io.Writer
	colour   bool // err is a terminal that wants colour
	live     bool // err is a terminal: lines may be redrawn
}

func standardUI() *ui {
	return &ui{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		colour: term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
		live:   term.IsTerminal(int(os.Stderr.Fd())),
	}
}

const (
	red    = "31"
	yellow = "33"
)

func (u *ui) paint(colour, s string) string {
	if !u.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// usageError is a command line that could not be read.
type usageError struct {
	command *cobra.Command
	error
}

// fail prints why a command could not run.
func (u *ui) fail(err error) {
	var problems config.Problems
	var usage usageError
	switch {
	case errors.As(err, &problems):
		u.problems("error", red, problems)
	case errors.As(err, &usage):
		fmt.Fprintf(u.err, "midspan: %s\n", u.paint(red, usage.Error()))
		fmt.Fprintf(u.err, "usage: %s\n", usage.command.UseLine())
		if usage.command.Example != "" {
			fmt.Fprintf(u.err, "example:\n%s\n", usage.command.Example)
		}
	default:
		fmt.Fprintf(u.err, "midspan: %s\n", u.paint(red, err.Error()))
	}
}

// problems prints each as file:line:col: text, the form that editors jump to.
func (u *ui) problems(word, colour string, ps config.Problems) {
	for _, p := range ps {
		fmt.Fprintf(u.err, "%s: %s: %s\n", p.Pos, u.paint(colour, word), p.Text)
	}
}

func (u *ui) say(format string, args ...any) { fmt.Fprintf(u.err, "midspan: "+format+"\n", args...) }

// json prints v for a program.
func (u *ui) json(v any) error {
	enc := json.NewEncoder(u.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table prints rows under a header, aligned.
func (u *ui) table(header string, rows [][]string) {
	w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ReplaceAll(header, " ", "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	w.Flush()
}

// count is "1 route", "2 routes".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// size is n in the unit that leaves one to four digits.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// progress shows a line that the next one replaces; where err is no terminal,
// each stands on a line of its own.
func (u *ui) progress(format string, args ...any) {
	if u.live {
		fmt.Fprintf(u.err, "\r\x1b[K"+format, args...)
		return
	}
	u.say(format, args...)
}

func (u *ui) clearLine() {
	if u.live {
		fmt.Fprint(u.err, "\r\x1b[K")
	}
}
