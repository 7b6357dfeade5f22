package relay_test

import (
	"testing"

	"midspan/internal/engine"
	"midspan/internal/engine/enginetest"
	"midspan/internal/engine/relay"
)

func TestBehaviour(t *testing.T) {
	enginetest.Run(t, func(t *testing.T, hooks engine.Hooks) engine.Engine {
		e, err := relay.New(relay.Options{Hooks: hooks})
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
}
