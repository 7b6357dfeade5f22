package rig

import (
	"path/filepath"
	"testing"
)

// Python is an interpreter with packages of PyPI, "NAME==VERSION". It downloads
// them once for a machine; call it before Isolate.
func Python(t testing.TB, packages ...string) string {
	t.Helper()
	dir := cached(t, "python", packages, func(dir string) error {
		if err := command("", Need(t, "python3", "python3-venv"), "-m", "venv", dir); err != nil {
			return err
		}
		return download("", filepath.Join(dir, "bin", "python"), append([]string{"-m", "pip", "install", "-q", "--disable-pip-version-check", "--timeout", "60"}, packages...)...)
	})
	return filepath.Join(dir, "bin", "python")
}
