package main

import (
	"slices"

	"midspan/internal/certs"
	"midspan/internal/config"
	"midspan/internal/plan"
)

// loadWithFiles is load, and reads the certificates that the file names.
func (u *ui) loadWithFiles(name string) (*plan.Plan, config.Problems, error) {
	f, p, warnings, err := u.parse(name)
	if p == nil {
		return nil, nil, err
	}
	problems, alsoWarnings := certs.Check(p)
	return p, append(warnings, placed(f, alsoWarnings)...), join(err, placed(f, problems).Err())
}

// placed gives each problem of a certificate's file the place where that is
// named.
func placed(f *config.File, problems certs.Problems) (all config.Problems) {
	for _, x := range problems {
		i := slices.IndexFunc(f.Routes, func(r config.Route) bool { return r.Name.V == x.Route })
		r := &f.Routes[i]
		pos := r.Name.Pos
		for _, named := range slices.Concat(r.TLS.Cert, []config.Field[string]{
			r.TLS.Key, r.TLS.ClientCA, r.UpstreamTLS.CA, r.UpstreamTLS.Cert, r.UpstreamTLS.Key,
		}) {
			if named.V == x.File {
				pos = named.Pos
				break
			}
		}
		all.Addf(pos, "%s", x)
	}
	return all
}
