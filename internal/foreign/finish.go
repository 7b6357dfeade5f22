package foreign

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"midspan/internal/config"
)

// finish is the Import, or all that stands in its way. wanted says what the
// input should have had, text is the input (to name what it looks like).
func (b *builder) finish(text, own, wanted string) (*Import, error) {
	if len(b.problems) > 0 {
		return nil, b.failed()
	}
	b.leftovers()
	b.circles()
	if len(b.file.Routes) == 0 {
		hint := otherFormat(text, own)
		b.problem(b.start(), "%s%s", wanted, hint)
		if hint == "" {
			// The format is right, so the notes are the reasons.
			reasons := b.notes
			if len(reasons) == 0 {
				reasons = b.unneeded
			}
			b.problems = append(b.problems, sorted(reasons)...)
		}
		return nil, b.failed()
	}
	b.ownPorts()
	hoistAll(&b.file)
	if n := len(config.Encode(&b.file)); n > config.MaxSize {
		b.problem(b.start(), "the result would have %d bytes, and midspan reads at most %d; split the input", n, config.MaxSize)
		return nil, b.failed()
	}
	return &Import{File: &b.file, Notes: sorted(b.notes), Needless: sorted(b.unneeded)}, nil
}

// failed is the problems, sorted; of a great many, the first.
func (b *builder) failed() error {
	_ = b.problems.Err() // sorts
	if n := len(b.problems); n > maxProblems {
		b.problems = append(b.problems[:maxProblems], config.Problem{
			Pos:  b.problems[maxProblems].Pos,
			Text: fmt.Sprintf("and %d more problems from here on", n-maxProblems),
		})
	}
	return b.problems
}

// The ports that the daemon itself uses when the file says nothing, as plan
// has them.
const (
	healthPort = 8080
	adminPort  = 9600
)

// ownPorts moves the daemon's own endpoints away from ports of routes.
func (b *builder) ownPorts() {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	health := b.move(config.Listen{From: healthPort, To: healthPort}, "health", "let the load balancer's probe ask there")
	if health.Set() {
		b.file.Health.Listen = health
		if !health.V.Off {
			b.claim(&claimed{Listen: health.V.V})
		}
	}
	b.file.Admin = b.move(config.Listen{Addr: loopback, From: adminPort, To: adminPort}, "admin", "status and metrics are there")
}

// move is the next free port for the endpoint that has l by default; not set
// if l is free.
func (b *builder) move(l config.Listen, key, then string) config.Field[config.OffOr[config.Listen]] {
	taken := b.taken(l)
	if taken == nil {
		return config.Field[config.OffOr[config.Listen]]{}
	}
	at := config.Pos{File: b.name, Line: max(1, taken.line), Col: 1}
	local := b.localPorts()
	port := l.From
	for next := port + 1; next != port; next++ {
		l.From, l.To = next, next
		if next >= 1024 && !local[next] && b.taken(l) == nil {
			b.notes.Addf(at, "route %s has midspan's own default port %d: `%s` moves to %s; %s", taken.route, port, key, l, then)
			return config.At(config.OffOr[config.Listen]{V: l}, at)
		}
	}
	b.notes.Addf(at, "the routes have every port, so `%s` is off", key)
	return config.At(config.OffOr[config.Listen]{Off: true}, at)
}

// hoistAll moves the settings that all routes share to `defaults`, where an
// engineer would have written them.
func hoistAll(f *config.File) {
	if len(f.Routes) < 2 {
		return
	}
	hoist(f, func(s *config.Settings) *config.Field[string] { return &s.Engine })
	hoistStruct(f, func(s *config.Settings) *[]config.Field[netip.Prefix] { return &s.Allow }, sameList[netip.Prefix])
	hoistStruct(f, func(s *config.Settings) *[]config.Field[netip.Addr] { return &s.Source }, sameList[netip.Addr])
	hoist(f, func(s *config.Settings) *config.Field[string] { return &s.Balance })
	hoist(f, func(s *config.Settings) *config.Field[time.Duration] { return &s.ConnectTimeout })
	hoist(f, func(s *config.Settings) *config.Field[config.OffOr[time.Duration]] { return &s.IdleTimeout })
	hoist(f, func(s *config.Settings) *config.Field[config.OffOr[time.Duration]] { return &s.FinTimeout })
	hoist(f, func(s *config.Settings) *config.Field[config.OffOr[time.Duration]] { return &s.UserTimeout })
	hoist(f, func(s *config.Settings) *config.Field[int] { return &s.MaxConnections })
	hoistStruct(f, func(s *config.Settings) *config.Keepalive { return &s.Keepalive }, sameKeepalive)
	hoistStruct(f, func(s *config.Settings) *config.Check { return &s.Check }, sameCheck)
}

func hoist[T comparable](f *config.File, at func(*config.Settings) *config.Field[T]) {
	if at(&f.Routes[0].Settings).Set() {
		hoistStruct(f, at, same[T])
	}
}

// hoistStruct moves a value as a whole or not at all: one that is put together
// from `defaults` and route would not be what the foreign file said.
func hoistStruct[T any](f *config.File, at func(*config.Settings) *T, equal func(a, b T) bool) {
	v := *at(&f.Routes[0].Settings)
	for i := range f.Routes {
		if !equal(v, *at(&f.Routes[i].Settings)) {
			return
		}
	}
	*at(&f.Defaults) = v
	for i := range f.Routes {
		var none T
		*at(&f.Routes[i].Settings) = none
	}
}

// same compares without the places.
func same[T comparable](a, b config.Field[T]) bool { return a.V == b.V && a.Set() == b.Set() }

func sameList[T comparable](a, b []config.Field[T]) bool { return slices.EqualFunc(a, b, same[T]) }

func sameKeepalive(a, b config.Keepalive) bool {
	return same(a.Off, b.Off) && same(a.Idle, b.Idle) && same(a.Interval, b.Interval) && same(a.Count, b.Count)
}

func sameCheck(a, b config.Check) bool {
	return same(a.Kind, b.Kind) && same(a.HTTP, b.HTTP) && same(a.Host, b.Host) && sameList(a.Status, b.Status) &&
		same(a.Send, b.Send) && same(a.Expect, b.Expect) && same(a.Port, b.Port) &&
		same(a.Every, b.Every) && same(a.Timeout, b.Timeout) && same(a.Rise, b.Rise) && same(a.Fall, b.Fall)
}
