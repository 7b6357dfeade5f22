package engine

import (
	"strconv"
	"strings"
	"testing"
)

func TestBrief(t *testing.T) {
	each := func(address string, from, to int) (list []string) {
		for port := from; port <= to; port++ {
			list = append(list, address+strconv.Itoa(port))
		}
		return list
	}
	for _, tt := range []struct {
		list []string
		want string
	}{
		{nil, ""},
		{[]string{"*:80"}, "*:80"},
		{append(each("*:", 19100, 19163), "*:19092"), "*:19092, *:19100-19163"},
		{append(each("127.0.77.1:", 19100, 19163), "127.0.77.1:19092", "127.0.77.1:19190"), "127.0.77.1:19092, 127.0.77.1:19100-19163, 127.0.77.1:19190"},
		{[]string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:81", "10.0.0.2:81"}, "10.0.0.1:80-81, 10.0.0.2:80-81"},
		{[]string{"[::1]:80", "[::1]:81", "%eth1:81", "*:9"}, "*:9, [::1]:80-81, %eth1:81"},
		{[]string{"*:100-109", "*:110", "*:80"}, "*:80, *:100-110"},
		{strings.Fields("1 3 5 7"), "1, 3, 5, 7"},
		{strings.Fields("1 3 5 7 9 10"), "1, 3, 5, 2 more"},
		{strings.Fields("9 10 11 2"), "2, 9-11"},
		{[]string{"*:80", "off"}, "*:80, off"},
	} {
		before := strings.Join(tt.list, " ")
		if got := Brief(tt.list); got != tt.want {
			t.Errorf("%s: %s, want %s", before, got, tt.want)
		}
		if now := strings.Join(tt.list, " "); now != before {
			t.Errorf("%s has become %s", before, now)
		}
	}
}
