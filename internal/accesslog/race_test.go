//go:build race

package accesslog

const raceDetector = true // everything takes longer
