package main

import (
	"fmt"
	"io"
	"time"
)

// patientWriter hands what is written to a goroutine, so that whoever logs
// never waits for a stuck terminal or journal: the data path logs, too. What
// does not fit is dropped.
type patientWriter struct {
	to    io.Writer
	lines chan []byte
	stop  chan struct{}
	done  chan struct{}
}

const patience = 1024

func newPatientWriter(to io.Writer) *patientWriter {
	w := &patientWriter{to, make(chan []byte, patience), make(chan struct{}), make(chan struct{})}
	go w.run()
	return w
}

func (w *patientWriter) run() {
	defer close(w.done)
	for stopping := false; ; {
		select {
		case line := <-w.lines:
			_, _ = w.to.Write(line) // there is nowhere to say so
			continue
		default:
		}
		if stopping {
			return
		}
		select {
		case line := <-w.lines:
			_, _ = w.to.Write(line)
		case <-w.stop:
			stopping = true
		}
	}
}

// Write implements io.Writer; slog writes a line at a time.
func (w *patientWriter) Write(p []byte) (int, error) {
	line := append([]byte(nil), p...)
	select {
	case w.lines <- line:
		return len(p), nil
	default:
		return 0, fmt.Errorf("stderr does not take %d lines", patience)
	}
}

// Close waits for what was written before, at most a second.
func (w *patientWriter) Close() error {
	close(w.stop)
	select {
	case <-w.done:
		return nil
	case <-time.After(time.Second):
		return fmt.Errorf("stderr is stuck")
	}
}
