package relay_test

import (
	"runtime"
	"testing"

	"midspan/internal/engine"
	"midspan/internal/engine/enginetest"
	"midspan/internal/engine/relay"
)

// TestBehaviour runs the relay as the daemon does.
func TestBehaviour(t *testing.T) {
	loops := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(16 * loops)) // for the loops of the cases that run at once, and their ends
	enginetest.Run(t, func(t *testing.T, hooks engine.Hooks) engine.Engine {
		e, err := relay.New(relay.Options{Hooks: hooks, Loops: loops, Dedicated: true})
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
}
