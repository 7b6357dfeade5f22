package main

import (
	"bufio"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// outcome is how a file of the suite ended.
type outcome struct {
	passed, failed, skipped, todo int
	planned                       int      // -1: no plan came
	why                           string   // it was skipped as a whole
	not                           []string // names of the tests that failed
	err                           error    // of the interpreter
}

// verdict is the outcome as a word of the table.
func (o *outcome) verdict() verdict {
	switch {
	case o.why != "":
		return skipped
	case o.err == nil && o.failed == 0 && o.planned > 0 && o.planned == o.passed+o.skipped+o.todo:
		return passes
	}
	return fails
}

var (
	planLine = regexp.MustCompile(`^1\.\.(\d+)(?:\s*#\s*(?i:skip)\w*\s*(.*))?$`)
	testLine = regexp.MustCompile(`^(not )?ok\b\s*\d*\s*(?:- )?([^#]*)(?:#\s*(?i:(skip|todo))\w*)?`)
)

// readTAP reads what a file printed, in the Test Anything Protocol
// (testanything.org). Lines that are not of the protocol are passed over.
func readTAP(r io.Reader) (*outcome, error) {
	o := &outcome{planned: -1}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := s.Text()
		if m := planLine.FindStringSubmatch(line); m != nil {
			o.planned, _ = strconv.Atoi(m[1]) // digits
			if o.planned == 0 {
				o.why = strings.TrimSpace(m[2])
			}
			continue
		}
		m := testLine.FindStringSubmatch(line)
		switch {
		case m == nil:
		case strings.EqualFold(m[3], "todo"):
			o.todo++
		case m[1] != "":
			o.failed++
			o.not = append(o.not, strings.TrimSpace(m[2]))
		case strings.EqualFold(m[3], "skip"):
			o.skipped++
		default:
			o.passed++
		}
	}
	return o, s.Err()
}
