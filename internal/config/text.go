package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Kinds of text: any of one line, paths, names, files.

func text(what string) kind[string] {
	return scalar(what, `^[^\x00-\x1f\x7f]+$`, func(s string) (string, error) {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", fmt.Errorf("%q is not %s; it is empty or has control characters", s, what)
		}
		return s, nil
	}, func(s string) string { return s })
}

func path(example string) kind[string] {
	return scalar("a path ("+example+")", `^/[^\x00-\x20\x7f]*$`, func(s string) (string, error) {
		if !strings.HasPrefix(s, "/") || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return "", fmt.Errorf("%q is not a path; write %s", s, example)
		}
		return s, nil
	}, func(s string) string { return s })
}

func token(what string) kind[string] {
	return scalar(what, `^[!#$%&'*+.^_|~0-9A-Za-z`+"`"+`-]+$`, func(s string) (string, error) { return parseToken(what, s) }, func(s string) string { return s })
}

// certFile is the path of a file, and not a word that switches TLS.
func certFile() kind[string] {
	k := text("a path")
	file, words := k.decode, []string{"on", "off", "yes", "no"}
	k.schema = maps.Clone(k.schema)
	k.schema["not"] = schema{"enum": toAny(words)}
	k.decode = func(d *decoder, n *yaml.Node, v *string) bool {
		if n.Kind == yaml.ScalarNode && slices.Contains(words, n.Value) {
			d.addf(n, "%q is not a certificate's file; write tls: FILE, or leave `tls` out", n.Value)
			return false
		}
		return file(d, n, v)
	}
	return k
}
