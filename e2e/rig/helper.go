package rig

import (
	"os"
	"testing"
)

// role is set in a process that is a helper and not a test.
const role = "MIDSPAN_E2E_ROLE"

// self is this binary, whatever has become of its path.
const self = "/proc/self/exe"

// Main is for TestMain: it plays the helper that the environment asks for, or
// runs the tests.
func Main(m *testing.M, helpers map[string]func(args []string) error) {
	name := os.Getenv(role)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := helpers[name](os.Args[1:]); err != nil {
		os.Stderr.WriteString("helper " + name + ": " + err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// Helper is this binary in the role of a helper, for what needs a process of
// its own.
func Helper(name string, args ...string) Spec {
	return Spec{Program: self, Args: args, Env: []string{role + "=" + name}}
}
