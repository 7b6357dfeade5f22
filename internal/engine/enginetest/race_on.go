//go:build race

package enginetest

// raceFactor is how much more memory the race detector makes everything cost.
const raceFactor = 5
