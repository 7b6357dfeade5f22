package daemon

import (
	"log/slog"
	"strings"
	"testing"
)

// TestLogListeners: a route has one line, in which its ports are ranges.
func TestLogListeners(t *testing.T) {
	var log lockedBuffer
	d := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	d.logListeners("listening", []string{"orders *:19092", "orders *:19100", "sql *:1433", "orders *:19101", "orders *:19102", "orders *:19103"})
	for _, want := range []string{`msg=listening route=orders on="*:19092, *:19100-19103"` + "\n", "msg=listening route=sql on=*:1433\n"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s\nwant in it: %s", log.String(), want)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}
