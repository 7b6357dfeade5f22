package accesslog

import (
	"bytes"
	"fmt"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// flusher is what the writing goroutine alone knows.
type flusher struct {
	*Writer
	target *target          // in use; differs from Writer.target until the next flush
	spare  []*engine.Record // swapped with the buffer, so that neither grows anew
	text   []byte
	torn   bool // the output ends in the middle of a line

	told     uint64    // of the dropped records, how many the log knows
	said     time.Time // when the log was told last
	troubled bool      // the log was told that writing fails, and not yet that it works
	blocked  time.Time // since when the output takes nothing; zero: it does
}

func (w *Writer) run() {
	defer close(w.done)
	f := &flusher{Writer: w}
	for {
		select {
		case <-w.urgent:
		case <-w.waiting:
			select {
			case <-w.urgent:
			case <-time.After(flushEvery):
			}
		}
		if end := f.flush(); end {
			f.target.sink.close()
			return
		}
	}
}

// flush writes what waits, and tells whether it was for the last time.
func (f *flusher) flush() (end bool) {
	f.mu.Lock()
	batch := f.buffer
	f.buffer, f.spare = f.spare[:0], nil
	end = f.closed
	next := f.Writer.target.Load()
	if next != f.target {
		next.sink.adopt()
	}
	f.mu.Unlock()
	if next != f.target {
		if f.target != nil {
			f.target.sink.close()
		}
		f.target, f.torn = next, false
	}
	if f.target.sink == nil {
		// Switched off since they were recorded: they are not wanted any more.
		f.spare = batch
		return end
	}
	f.text = f.text[:0]
	for _, r := range batch {
		f.text = f.append(f.text, r)
	}
	f.write(f.text)
	clear(batch) // a quiet spell must not keep the records of a busy one
	f.spare = batch
	if cap(f.text) > maxText {
		f.text = nil
	}
	return end
}

// maxText is how much memory the lines of a busy moment may hold on to.
const maxText = 1 << 20

func (f *flusher) append(to []byte, r *engine.Record) []byte {
	if f.target.Format == plan.LogTCP {
		return appendHaproxy(to, r, f.loc)
	}
	return appendJSON(to, r)
}

// write writes whole lines, or drops those it cannot.
func (f *flusher) write(lines []byte) {
	if len(lines) == 0 {
		return
	}
	if f.torn {
		if _, err := f.target.sink.write([]byte{'\n'}, f.stop); err != nil {
			f.lost(lines, err)
			return
		}
		f.torn = false
	}
	n, err := f.target.sink.write(lines, f.stop)
	f.blocked = time.Time{}
	if n > 0 {
		f.torn = lines[n-1] != '\n'
	}
	if err != nil {
		f.lost(lines[n:], err)
		return
	}
	f.recovered()
}

// stop is asked while the output takes nothing: is there a reason not to wait
// on?
func (f *flusher) stop() bool {
	now := time.Now()
	if f.blocked.IsZero() {
		f.blocked = now
	} else if now.Sub(f.blocked) > time.Second {
		f.complain(errBlocked)
	}
	end := f.giveUp.Load()
	return f.Writer.target.Load() != f.target || (end != 0 && now.UnixNano() > end)
}

// lost counts the lines that were not written. Each record is one line.
func (f *flusher) lost(lines []byte, err error) {
	f.dropped.Add(uint64(bytes.Count(lines, []byte{'\n'})))
	f.complain(err)
}

func (f *flusher) complain(err error) {
	if now := time.Now(); f.said.IsZero() || now.Sub(f.said) >= sayEvery {
		f.said, f.troubled = now, true
		f.log.Error("cannot write the access log; records are dropped until it can be written", "to", f.target.To, "error", err)
	}
}

// recovered tells how many records were lost, now that writing works. Losses
// that the log must not be told of yet wait for the next time.
func (f *flusher) recovered() {
	total, now := f.Dropped(), time.Now()
	lost := total - f.told
	switch {
	case f.troubled:
		f.log.Warn(fmt.Sprintf("the access log is written again; %d records lost", lost), "to", f.target.To)
	case lost > 0 && now.Sub(f.said) >= sayEvery:
		f.log.Warn(fmt.Sprintf("the access log could not keep up; %d records lost", lost), "to", f.target.To)
	default:
		return
	}
	f.told, f.said, f.troubled = total, now, false
}
