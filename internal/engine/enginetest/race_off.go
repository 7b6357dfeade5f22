//go:build !race

package enginetest

// raceFactor is for the race detector, which makes memory cost more.
const raceFactor = 1
