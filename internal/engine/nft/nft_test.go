package nft

import (
	"log/slog"
	"os"
	"testing"

	"midspan/internal/engine"
	"midspan/internal/engine/enginetest"
	"midspan/internal/netns"
	"midspan/internal/plan"
)

func TestMain(m *testing.M) {
	os.Exit(netns.Alone(m.Run))
}

// TestEngine: between machines of their own, since the kernel forwards nothing
// from loopback.
func TestEngine(t *testing.T) {
	enginetest.Run(t, enginetest.Engine{Kind: plan.NFT, Place: enginetest.Machines(t), New: func(t *testing.T, hooks engine.Hooks) engine.Engine {
		e, err := New(Options{Hooks: hooks, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}})
}
