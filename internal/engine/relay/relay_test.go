package relay_test

import (
	"runtime"
	"testing"

	"midspan/internal/engine"
	"midspan/internal/engine/enginetest"
	"midspan/internal/engine/relay"
	"midspan/internal/plan"
)

func TestBehaviour(t *testing.T) { behaviour(t, enginetest.Loopback()) }

func TestBehaviourBetweenMachines(t *testing.T) { behaviour(t, enginetest.Machines(t)) }

// behaviour runs the relay as the daemon does.
func behaviour(t *testing.T, at *enginetest.Place) {
	loops := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(16 * loops)) // for the loops of the cases that run at once, and their ends
	enginetest.Run(t, enginetest.Engine{Kind: plan.Relay, Place: at, New: func(t *testing.T, hooks engine.Hooks) engine.Engine {
		e, err := relay.New(relay.Options{Hooks: hooks, Loops: loops, Dedicated: true})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}})
}
