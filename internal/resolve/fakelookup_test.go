package resolve

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// fake looks names up in virtual time.
type fake struct {
	mu     sync.Mutex
	answer result
	takes  time.Duration
	t0     time.Time
	asked  []time.Duration // since t0
	now    int             // look-ups under way
	most   int
}

func newFake(answer result) *fake { return &fake{answer: answer, t0: time.Now()} }

func (f *fake) set(answer result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *fake) lookup(ctx context.Context, name, via string) result {
	f.mu.Lock()
	f.asked = append(f.asked, time.Since(f.t0))
	f.now++
	f.most = max(f.most, f.now)
	answer := f.answer
	f.mu.Unlock()
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
		answer = result{fam: [2]family{bad(silent), bad(silent)}}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now--
	return answer
}

// times returns when look-ups began.
func (f *fake) times() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

func (f *fake) count() int { return len(f.times()) }

// peak returns how many look-ups were under way at the same time.
func (f *fake) peak() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most
}

// both is a result in which only the A question may have addresses.
func both(a family) result {
	if a.outcome == gotAddrs {
		return result{fam: [2]family{a, bad(noAddrs)}}
	}
	return result{fam: [2]family{a, a}}
}

func ttls(o Options) Options {
	o.MinTTL, o.MaxTTL = time.Second, 5*time.Minute
	return o
}

// logTo returns a logger that writes lines without a time to buf.
func logTo(buf *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(buf, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}
