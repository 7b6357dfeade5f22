package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// made is what files came to.
type made struct {
	config   *tls.Config
	ca       []byte // the text of the CA file
	expires  map[string]time.Time
	stamps   []stamp
	problems Problems
	warnings Problems
}

// reading reads files of a route, and notes what is wrong with them.
type reading struct {
	made
	route string
}

// begin notes the state of the files before they are read: what is written from
// now on is a change.
func begin(route string, paths []string) *reading {
	r := &reading{route: route}
	r.stamps, r.expires = stampsOf(paths), map[string]time.Time{}
	return r
}

func stampsOf(paths []string) []stamp {
	all := make([]stamp, len(paths))
	for i, p := range paths {
		all[i] = stampOf(p)
	}
	return all
}

func (r *reading) problem(file string, err error) {
	r.problems = append(r.problems, Problem{r.route, file, err.Error()})
}

// pair reads a certificate with its key; nil: it cannot be used.
func (r *reading) pair(certFile, keyFile string) *tls.Certificate {
	c, expires, file, err := pair(certFile, keyFile)
	if err != nil {
		r.problem(file, err)
		return nil
	}
	r.expires[certFile] = expires
	switch now := time.Now(); {
	case now.After(expires):
		r.warnings = append(r.warnings, Problem{r.route, certFile, "expired on " + day(expires)})
	case now.Before(c.Leaf.NotBefore):
		r.warnings = append(r.warnings, Problem{r.route, certFile, "not valid before " + day(c.Leaf.NotBefore)})
	}
	return c
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// pool reads those who may sign.
func (r *reading) pool(file string) *x509.CertPool {
	p, text, err := pool(file)
	if err != nil {
		r.problem(file, fmt.Errorf("as CA: %w", err))
	}
	r.ca = text
	return p
}

// files are those that settings were made of.
type files struct {
	route    string
	paths    []string // all of them
	shown    []string // those with certificates for others
	stamps   []stamp  // of what was last read
	seen     []stamp  // at the last look
	expires  map[string]time.Time
	problems Problems // of the newest content, which is not in force then
}

func (f *files) take(m made) {
	f.stamps, f.seen, f.expires = m.stamps, m.stamps, m.expires
}

// changed tells whether files are to be read again: others than those last read,
// and, unless it is to be at once, the same as at the last look.
func (f *files) changed(atOnce bool) bool {
	now := stampsOf(f.paths)
	rested := slices.Equal(now, f.seen)
	f.seen = now
	if slices.Equal(now, f.stamps) || (!rested && !atOnce) {
		return false
	}
	f.stamps = now
	return true
}

func (f *files) appendTo(all []Shown) []Shown {
	for _, path := range f.shown {
		v := Shown{Route: f.route, File: path, Expires: f.expires[path]}
		for _, p := range f.problems {
			v.Problem = p.File + ": " + p.Text
		}
		all = append(all, v)
	}
	return all
}
