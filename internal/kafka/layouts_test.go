package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestVersions: what is known here is what kmsg knows. When this fails after kmsg was raised,
// look at what the new versions carry, and only then at the numbers.
func TestVersions(t *testing.T) {
	if kmsg.MaxKey != lastKey {
		t.Errorf("kmsg knows APIs up to %d, this package up to %d", kmsg.MaxKey, lastKey)
	}
	for key := range int16(maxKey) {
		known, ok := lastVersion(key)
		if !ok {
			continue
		}
		if last := kmsg.ResponseForKey(key).MaxVersion(); last != known {
			t.Errorf("%s: kmsg knows versions up to %d, this package up to %d", apiName(key), last, known)
		}
		if name := kmsg.NameForKey(key); name != apiName(key) {
			t.Errorf("%s: called %s", name, apiName(key))
		}
	}
}
