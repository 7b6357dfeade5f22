//go:build race

package foreign

// shrink divides the sizes of TestLarge: the race detector is ten times slower.
const shrink = 50
