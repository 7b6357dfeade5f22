package result

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

func encode(t *testing.T, r *Results) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestJSONRoundTrip(t *testing.T) {
	full := fixture()
	full.Failures = []Failure{{"bulk1", "haproxy", 2, "reset <by> \"peer\" & others\n\"samples\": []"}}
	empty := &Results{
		Schema: Schema, Started: time.Unix(0, 0).UTC(),
		Peers: []Peer{}, Workloads: []Workload{}, Samples: []Sample{}, Failures: []Failure{},
	}
	for name, want := range map[string]*Results{"full": full, "empty": empty} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(strings.NewReader(encode(t, want)))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if again := encode(t, got); again != encode(t, want) {
				t.Error("the second encoding differs from the first")
			}
		})
	}
}

func TestJSONOrderIsStable(t *testing.T) {
	r := fixture()
	want := encode(t, r)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(r.Samples), func(i, j int) { r.Samples[i], r.Samples[j] = r.Samples[j], r.Samples[i] })
	before := r.Samples[0]
	if encode(t, r) != want {
		t.Error("the order of the samples shows")
	}
	if !reflect.DeepEqual(r.Samples[0], before) {
		t.Error("Encode changed its receiver")
	}
}

func TestJSONErrors(t *testing.T) {
	r := &Results{Samples: []Sample{{Values: map[string]float64{"x": math.NaN()}}}}
	if err := r.Encode(&bytes.Buffer{}); err == nil {
		t.Error("not a number: no error")
	}
	for _, c := range []struct{ text, want string }{
		{"{", "unexpected EOF"},
		{`{"schema": 99}`, "schema 99"},
		{`{}`, "schema 0"},
	} {
		if _, err := Decode(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.text, err, c.want)
		}
	}
}
