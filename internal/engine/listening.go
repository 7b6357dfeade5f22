package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Brief is a list of listeners, as in Change and RouteStatus, or of numbers, in a few
// words: ports of one address that follow each other are a range (*:19100-19163), and
// of many such the first are named.
func Brief(list []string) string {
	const most = 4
	ranges := joined(list)
	if n := len(ranges) - (most - 1); n > 1 {
		ranges = append(ranges[:most-1], fmt.Sprintf("%d more", n))
	}
	return strings.Join(ranges, ", ")
}

// joined is list by port, with ranges in place of ports that follow each other.
func joined(list []string) (texts []string) {
	type ports struct {
		address  string // up to the colon, with it
		from, to int
	}
	var all []ports
	for _, text := range list {
		at := strings.LastIndexByte(text, ':') + 1
		low, high, isRange := strings.Cut(text[at:], "-")
		if !isRange {
			high = low
		}
		from, err1 := strconv.Atoi(low)
		to, err2 := strconv.Atoi(high)
		if err1 != nil || err2 != nil {
			return slices.Clone(list) // no ports
		}
		all = append(all, ports{text[:at], from, to})
	}
	slices.SortFunc(all, func(a, b ports) int {
		return cmp.Or(cmp.Compare(a.address, b.address), cmp.Compare(a.from, b.from))
	})
	var ranges []ports
	for _, p := range all {
		if last := len(ranges) - 1; last >= 0 && ranges[last].address == p.address && ranges[last].to+1 == p.from {
			ranges[last].to = p.to
			continue
		}
		ranges = append(ranges, p)
	}
	slices.SortStableFunc(ranges, func(a, b ports) int { return cmp.Compare(a.from, b.from) })
	for _, r := range ranges {
		text := r.address + strconv.Itoa(r.from)
		if r.to != r.from {
			text += "-" + strconv.Itoa(r.to)
		}
		texts = append(texts, text)
	}
	return texts
}
