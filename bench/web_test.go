package main

import (
	"strings"
	"testing"
)

func TestWrkReport(t *testing.T) {
	const words = "Running 1s test @ http://10.9.1.2:8000/128\n  64 connections\n"
	r, err := wrkReport([]byte(words + `{"Seconds":1.1,"Exchanges":50000,"BytesDown":7,"P50":900,"P99":2000,"P999":3000,"Errors":0,"Error":"connect 0"}` + "\n"))
	if err != nil || r.Seconds != 1.1 || r.Exchanges != 50000 || r.P99 != 2000 {
		t.Errorf("%+v, %v", r, err)
	}
	for text, want := range map[string]string{
		words: "wrk says", "": "wrk says",
		words + `{"Exchanges":5,"Errors":2,"Error":"status 2"}`: "2 errors: status 2",
		words + `{"Exchanges":0,"Errors":0}`:                    "no answer",
	} {
		if _, err := wrkReport([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %s", text, err, want)
		}
	}
}
