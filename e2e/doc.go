// Package e2e tests the built binary, ../bin/midspan, from outside: with real
// databases, web servers and clients, real kernels and real time. It imports
// nothing of midspan's. Package rig is what the tests stand on, and packages below
// this one are for what takes more: Kafka's cluster and clients.
//
// A program that is missing on the machine is a failure that names the Debian
// package to install; with MIDSPAN_E2E_SKIP_MISSING=1 it is a skip. MIDSPAN_BIN
// names another binary to test. Tests that bind well-known ports or need names
// and addresses of their own run in private namespaces (rig.Isolate), as root or
// as an ordinary user where user namespaces are allowed; the others keep to
// loopback. What comes from Maven Central and PyPI is downloaded once, to
// midspan-e2e in the user's cache directory (XDG_CACHE_HOME).
//
// Limits: Linux only. Figures are printed, not judged, but where the design gives
// a number.
package e2e
