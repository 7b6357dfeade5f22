package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// progress tells on a terminal, in one line that is written over, what is done
// now and how long the rest takes; elsewhere, a line for each cell.
type progress struct {
	to       *os.File
	terminal bool
	began    time.Time
	all      int
	done     int
}

func newProgress(to *os.File, all int) *progress {
	_, err := unix.IoctlGetTermios(int(to.Fd()), unix.TCGETS)
	return &progress{to: to, terminal: err == nil, began: time.Now(), all: all}
}

// cell says that a cell begins.
func (p *progress) cell(round int, workload, peer string) {
	line := fmt.Sprintf("%d of %d: round %d, %s, %s%s", p.done+1, p.all, round, workload, peer, p.left())
	if p.terminal {
		fmt.Fprintf(p.to, "\r\x1b[K%s", line)
	} else {
		fmt.Fprintln(p.to, line)
	}
	p.done++
}

// left is an estimate, from the time that the cells until now have taken.
func (p *progress) left() string {
	if p.done == 0 {
		return ""
	}
	each := time.Since(p.began) / time.Duration(p.done)
	left := each * time.Duration(p.all-p.done)
	if left >= 2*time.Minute {
		return fmt.Sprintf("; %.0f min left", left.Minutes())
	}
	return fmt.Sprintf("; %.0f s left", left.Seconds())
}

// say leaves an error on the screen.
func (p *progress) say(err error) {
	p.end()
	fmt.Fprintln(p.to, err)
}

// end takes the line away.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}
