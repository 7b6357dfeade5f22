package rig

import (
	"testing"
	"time"
)

// Patience is how long a test waits for what comes at once on a machine that is
// idle. Where all processors are taken by others a start, a look-up or a line of a
// log took a hundred times as long; what fails fails for good, so that waiting
// longer hides nothing. What is to be quick is timed, and not waited for.
const Patience = time.Minute

// pollEvery is how often Until looks.
const pollEvery = 10 * time.Millisecond

// Until waits until ok, and fails the test when that takes too long.
func Until(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	begin := time.Now()
	looks := 1
	for ; !ok(); looks++ {
		if time.Since(begin) > within {
			// Few looks mean that the machine stood still, or ok did.
			t.Fatalf("waited %s in vain (%d looks) until %s", time.Since(begin).Round(time.Millisecond), looks, what)
		}
		time.Sleep(pollEvery)
	}
}
