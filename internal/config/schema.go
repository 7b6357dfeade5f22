package config

import (
	"encoding/json"
	"regexp"
)

// routeName is the form of a route's name: it stands in metrics, logs and
// probe paths (/route/NAME) without quoting.
const routeName = `^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`

var routeNameRE = regexp.MustCompile(routeName)

// Schema is the JSON Schema (draft 2020-12) of the file, for editors. All that
// it refuses, Parse refuses; Parse also refuses some values that it cannot
// express (a range that ends before it starts, a duration out of range).
func Schema() []byte {
	s := objectSchema(fileKeys)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "midspan.yaml"
	// Cannot fail: maps, slices, strings and numbers.
	out, _ := json.MarshalIndent(s, "", "  ")
	return append(out, '\n')
}
