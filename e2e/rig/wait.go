package rig

import (
	"testing"
	"time"
)

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
