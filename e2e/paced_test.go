package e2e

import (
	"io"
	"time"
)

// paced is a reader that takes its time: it reads at most rate bytes a second.
type paced struct {
	r     io.Reader
	rate  float64
	begin time.Time
	n     int64
	mark  int64
	then  func() // called once when mark bytes have been read
}

// at has f called when n bytes have been read.
func (p *paced) at(n int64, f func()) { p.mark, p.then = n, f }

// took is how long it has been going on.
func (p *paced) took() time.Duration { return time.Since(p.begin) }

func (p *paced) Read(b []byte) (int, error) {
	due := p.begin.Add(time.Duration(float64(p.n) / p.rate * float64(time.Second)))
	if wait := time.Until(due); wait > time.Millisecond {
		time.Sleep(wait)
	}
	n, err := p.r.Read(b)
	p.n += int64(n)
	if p.then != nil && p.n >= p.mark {
		p.then()
		p.then = nil
	}
	return n, err
}
