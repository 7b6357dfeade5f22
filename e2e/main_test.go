package e2e

import (
	"testing"

	"midspan/e2e/rig"
)

func TestMain(m *testing.M) {
	rig.Main(m, map[string]func(args []string) error{
		"idle server":  idleServer,
		"idle clients": idleClients,
	})
}
