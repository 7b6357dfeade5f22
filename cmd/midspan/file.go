package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"midspan/internal/config"
	"midspan/internal/plan"
)

// standardInput is the name that stands for it on the command line.
const standardInput = "-"

// shown is a file's name in positions.
func shown(name string) string {
	if name == standardInput {
		return "stdin"
	}
	return name
}

// readFile reads at most what config accepts, so that a wrong file of any size
// costs nothing.
func (u *ui) readFile(name string) ([]byte, error) {
	r := u.in
	if name != standardInput {
		f, err := os.Open(name)
		if err != nil {
			return nil, err // it names the operation and the file
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, config.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > config.MaxSize {
		return nil, fmt.Errorf("%s is larger than %s; is it the right file?", name, size(config.MaxSize))
	}
	return data, nil
}

// load reads a file and makes its plan.
func (u *ui) load(name string) (*plan.Plan, config.Problems, error) {
	_, p, warnings, err := u.parse(name)
	return p, warnings, err
}

func (u *ui) parse(name string) (*config.File, *plan.Plan, config.Problems, error) {
	data, err := u.readFile(name)
	if err != nil {
		return nil, nil, nil, err
	}
	f, err := config.Parse(shown(name), data)
	// The plan is made also of what could be read, to report its problems in
	// the same run.
	if f == nil {
		return nil, nil, nil, err
	}
	p, warnings, errPlan := plan.New(f)
	return f, p, warnings, join(err, errPlan)
}

// join makes one list of the problems of both.
func join(a, b error) error {
	pa, oka := asProblems(a)
	pb, okb := asProblems(b)
	if oka && okb {
		return append(pa, pb...).Err()
	}
	return errors.Join(a, b)
}

func asProblems(err error) (config.Problems, bool) {
	var ps config.Problems
	is := errors.As(err, &ps)
	return ps, is
}
