package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestPatientWriter: all lines are written in order before Close returns; a
// stuck stderr holds up neither the writer nor Close.
func TestPatientWriter(t *testing.T) {
	var out bytes.Buffer
	w := newPatientWriter(&out)
	want := ""
	for i := range 500 {
		line := fmt.Sprintf("line %d\n", i)
		want += line
		if _, err := w.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil || out.String() != want {
		t.Errorf("%v; %d of %d lines", err, strings.Count(out.String(), "\n"), 500)
	}

	stuck := make(stuckWriter)
	w = newPatientWriter(stuck)
	begin := time.Now()
	dropped := 0
	for range 2 * patience {
		if _, err := w.Write([]byte("x\n")); err != nil {
			dropped++
		}
	}
	if dropped < patience-1 || time.Since(begin) > 20*time.Second {
		t.Errorf("%d dropped in %s", dropped, time.Since(begin))
	}
	if w.Close() == nil {
		t.Error("Close does not say that lines are lost")
	}
	close(stuck)
}

type stuckWriter chan struct{}

func (s stuckWriter) Write(p []byte) (int, error) {
	<-s
	return len(p), nil
}
