package kafka

import (
	"testing"

	"midspan/e2e/rig"
)

func TestMain(m *testing.M) {
	rig.Main(m, map[string]func(args []string) error{
		"franz-go": func(args []string) error { return runJobs(args, newFranz) },
		"sarama":   func(args []string) error { return runJobs(args, newSarama) },
	})
}
