package resolve

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

// searching returns a wire with a search list that asks the server given.
func searching(timeout time.Duration, s *dnsServer) *wire {
	w := newWire(timeout, s)
	conf := parseResolvConf([]byte("search corp.x x\n"))
	conf.servers = w.src.servers.servers
	w.src.servers = conf
	return w
}

func byName(m map[string]answerFunc, other answerFunc) answerFunc {
	return func(a ask) bool {
		if answer := m[a.reply.Question[0].Name]; answer != nil {
			return answer(a)
		}
		return other(a)
	}
}

func TestSearchList(t *testing.T) {
	t.Parallel()
	db := zone(t, "db.x. 60 A 10.0.0.1")
	for _, tt := range []struct {
		name, ask string
		answer    answerFunc
		want, err string
	}{
		{"the second suffix", "db", db, "10.0.0.1", ""},
		{"as it is first", "db.x", db, "10.0.0.1", ""},
		{"absolute", "db.", db, "", "db.: no such name (NXDOMAIN from S1)"},
		{"nowhere", "web", db, "", "web: no such name (NXDOMAIN from S1); asked for web.corp.x. web.x. web."},
		{"the name exists without an address", "web", byName(map[string]answerFunc{"web.x.": rcode(dns.RcodeSuccess)}, db), "", "web: no address (empty answer from S1); asked for web.corp.x. web.x. web."},
		{
			"a refused suffix is passed over", "db",
			byName(map[string]answerFunc{"db.corp.x.": rcode(dns.RcodeServerFailure)}, db), "10.0.0.1", "",
		},
		{
			"silence is not", "db",
			byName(map[string]answerFunc{"db.corp.x.": mute}, db), "", "db: no answer from S1 (timeout)",
		},
		{
			"a server that drops AAAA questions", "db",
			byType(db, mute), "10.0.0.1", "",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			expect(t, searching(short, serve(t, tt.answer)), tt.ask, tt.want, tt.err)
		})
	}
}

// Guards: a hiccup at the name's own server, and traffic goes to a host of
// another domain that has the same first label.
func TestSearchListStaysWithTheKnownGoodName(t *testing.T) {
	t.Parallel()
	s := serve(t, zone(t, "db.corp.x. 60 A 10.0.0.1\ndb.x. 60 A 10.6.6.6"))
	w := searching(long, s)
	res := expect(t, w, "db", "10.0.0.1", "")
	s.set(byName(map[string]answerFunc{"db.corp.x.": rcode(dns.RcodeServerFailure)}, zone(t, "db.x. 60 A 10.6.6.6")))
	if res = w.lookup(t.Context(), "db", res.via); res.fresh() || res.worst().outcome != refused {
		t.Errorf("got %+v", res)
	}
	s.set(zone(t, "db.x. 60 A 10.0.0.2")) // a server's word that it is gone is believed
	if res = w.lookup(t.Context(), "db", "db.corp.x."); res.via != "db.x." || !res.fresh() {
		t.Errorf("got %+v", res)
	}
}
