package main

import (
	"strings"
)

// lookup is where the values of variables come from. It tells whether the
// value is known: while the configuration is read, only little is.
type lookup func(name string) (value string, known bool)

// expand puts values in the place of the variables of text; ok tells whether
// all of them were known.
func expand(text string, get lookup) (out string, ok bool) {
	var b strings.Builder
	ok = true
	for len(text) > 0 {
		i := strings.IndexByte(text, '$')
		if i < 0 || i == len(text)-1 {
			b.WriteString(text)
			break
		}
		b.WriteString(text[:i])
		name, n := variable(text[i:])
		if n == 0 {
			b.WriteByte('$')
			text = text[i+1:]
			continue
		}
		v, known := get(name)
		ok = ok && known
		b.WriteString(v)
		text = text[i+n:]
	}
	return b.String(), ok
}

// variable is the name that text, which begins with $, begins with, and the
// length of that: $name or ${name}, or $1 to $9.
func variable(text string) (name string, n int) {
	if strings.HasPrefix(text, "${") {
		if end := strings.IndexByte(text, '}'); end > 0 {
			return text[2:end], end + 1
		}
		return "", 0
	}
	n = 1
	for n < len(text) && isWord(text[n]) {
		n++
	}
	if n == 1 {
		return "", 0
	}
	return text[1:n], n
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// variables are the names that text has.
func variables(text string) (names []string) {
	expand(text, func(name string) (string, bool) {
		names = append(names, name)
		return "", false
	})
	return names
}

// definition is a variable that the configuration defines.
type definition interface {
	// value is the variable's value, with what other variables are in get.
	value(get lookup) (string, bool)
}

// definitions reads map, geo and split_clients among ds.
func definitions(r *reader, ds []*directive) (map[string]definition, error) {
	all := map[string]definition{}
	for _, d := range ds {
		var v definition
		var err error
		name := d.arg(len(d.args) - 1)
		switch d.name {
		case "map":
			v, err = newMapping(d)
		case "geo":
			v, err = newGeo(r, d)
		case "split_clients":
			v, err = newSplit(d)
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(name, "$") {
			return nil, d.errorf("invalid variable name %q", name)
		}
		all[name[1:]] = v
	}
	return all, nil
}

// mustArgs refuses a directive with fewer arguments than n.
func mustArgs(d *directive, n int) error {
	if len(d.args) < n {
		return d.errorf("invalid number of arguments in %q directive", d.name)
	}
	return nil
}
