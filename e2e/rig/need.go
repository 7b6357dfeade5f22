package rig

import (
	"os"
	"os/exec"
	"testing"
)

// skipMissing turns what the machine lacks from a failure into a skip.
const skipMissing = "MIDSPAN_E2E_SKIP_MISSING"

// Need is the path of a program, which the Debian package has.
func Need(t testing.TB, program, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // not in an ordinary user's PATH
		if err != nil {
			path, err = exec.LookPath(dir + program)
		}
	}
	if err != nil {
		Missing(t, "%s is not on this machine; it is in the Debian package %s", program, debianPackage)
	}
	return path
}

// NeedFile is path, which the Debian package has.
func NeedFile(t testing.TB, path, debianPackage string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		Missing(t, "%s is not on this machine; it is in the Debian package %s", path, debianPackage)
	}
	return path
}

// Missing ends the test because the machine cannot run it.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(skipMissing) == "1" {
		t.Skipf(format, args...)
	}
	t.Fatalf(format+" ("+skipMissing+"=1 skips this test)", args...)
}
