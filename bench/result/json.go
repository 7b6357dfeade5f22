package result

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Encode writes r as JSON in a form that differs little between similar runs: indented, samples and failures one a line,
// sorted by workload, peer and round.
func (r *Results) Encode(w io.Writer) error {
	head := *r
	head.Schema = Schema
	head.Peers, head.Workloads = orEmpty(r.Peers), orEmpty(r.Workloads)
	head.Samples, head.Failures = []Sample{}, []Failure{}
	text, err := marshal(head, "  ")
	if err != nil {
		return err
	}
	order := r.order()
	samples, err := lines(sorted(r.Samples, order, func(s Sample) cell { return cell{s.Workload, s.Peer, s.Round} }))
	if err != nil {
		return err
	}
	failures, err := lines(sorted(r.Failures, order, func(f Failure) cell { return cell{f.Workload, f.Peer, f.Round} }))
	if err != nil {
		return err
	}
	text = fill(text, "samples", samples)
	text = fill(text, "failures", failures)
	_, err = w.Write(text)
	return err
}

// Decode reads what Encode wrote.
func Decode(rd io.Reader) (*Results, error) {
	var r Results
	if err := json.NewDecoder(rd).Decode(&r); err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("read results: schema %d; this program reads %d", r.Schema, Schema)
	}
	return &r, nil
}

// fill puts list in the place of the empty list called name.
func fill(text []byte, name string, list []byte) []byte {
	empty := []byte("\n  \"" + name + "\": []")
	i := bytes.LastIndex(text, empty) + len(empty) - len("[]")
	return slices.Concat(text[:i], list, text[i+len("[]"):])
}

// lines returns a JSON list with one element a line.
func lines[T any](list []T) ([]byte, error) {
	if len(list) == 0 {
		return []byte("[]"), nil
	}
	var texts [][]byte
	for _, e := range list {
		text, err := marshal(e, "")
		if err != nil {
			return nil, err
		}
		texts = append(texts, bytes.TrimSpace(text))
	}
	return slices.Concat([]byte("[\n    "), bytes.Join(texts, []byte(",\n    ")), []byte("\n  ]")), nil
}

// marshal is json.Marshal, but leaves <, > and & as they are: configurations are full of them.
func marshal(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("write results: %w", err)
	}
	return b.Bytes(), nil
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// order is the order of presentation of workloads and peers.
type order struct{ workload, peer map[string]int }

func (r *Results) order() order {
	o := order{workload: map[string]int{}, peer: map[string]int{}}
	for i, w := range r.Workloads {
		o.workload[w.Name] = i
	}
	for i, p := range r.Peers {
		o.peer[p.Name] = i
	}
	return o
}

// cell is where in a run a sample or a failure belongs.
type cell struct {
	workload, peer string
	round          int
}

func (o order) compare(a, b cell) int {
	return cmp.Or(
		cmp.Compare(o.workload[a.workload], o.workload[b.workload]),
		cmp.Compare(o.peer[a.peer], o.peer[b.peer]),
		cmp.Compare(a.round, b.round),
	)
}

// sorted returns a copy of list in the order of presentation.
func sorted[T any](list []T, o order, at func(T) cell) []T {
	return slices.SortedStableFunc(slices.Values(list), func(a, b T) int { return o.compare(at(a), at(b)) })
}
