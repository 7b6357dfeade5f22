//go:build !race

package foreign

// shrink divides the sizes of TestLarge.
const shrink = 1
