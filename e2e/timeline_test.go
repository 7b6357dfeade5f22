package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// timeline notes when things happened for the first time, and for the last.
type timeline struct {
	mu          sync.Mutex
	start       time.Time
	first, last map[string]time.Duration
}

func newTimeline() *timeline {
	return &timeline{start: time.Now(), first: map[string]time.Duration{}, last: map[string]time.Duration{}}
}

// note notes that what happened at the time at.
func (l *timeline) note(what string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := at.Sub(l.start)
	if _, ok := l.first[what]; !ok {
		l.first[what] = d
	}
	l.last[what] = d
}

// has tells whether what has happened.
func (l *timeline) has(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.first[what]
	return ok
}

func (l *timeline) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for what, at := range l.first {
		lines = append(lines, fmt.Sprintf("%8.3fs to %8.3fs  %s", at.Seconds(), l.last[what].Seconds(), what))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// wantOrder wants the first time of each to come after that of the one before.
func (l *timeline) wantOrder(t *testing.T, whats ...string) {
	t.Helper()
	for i, what := range whats {
		switch {
		case !l.has(what):
			t.Errorf("never: %s", what)
		case i > 0 && l.first[what] < l.first[whats[i-1]]:
			t.Errorf("%q came before %q", what, whats[i-1])
		}
	}
}
