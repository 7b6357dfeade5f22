package enginetest

import (
	"slices"
	"strings"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// needs are the cases that not every engine can pass, and what they take. A case
// whose outcome differs between engines asks one of the functions below instead.
var needs = map[string][]plan.Feature{
	"one of two servers refuses":                         {plan.FeatureFailover},
	"one of two addresses refuses":                       {plan.FeatureFailover},
	"one of two servers drops everything":                {plan.FeatureFailover, plan.FeatureConnectTimeout},
	"client sends and ends before the server is reached": {plan.FeatureAcceptFirst, plan.FeatureFailover},
	"client resets before the server is reached":         {plan.FeatureAcceptFirst},
	"close while connecting":                             {plan.FeatureAcceptFirst},
	"IPv6 listener and IPv4 server":                      {plan.FeatureFamilies},
	"IPv4 listener and IPv6 server":                      {plan.FeatureFamilies},
	"leastconn":                                          {plan.FeatureLeastConn},
	"leastconn by weight":                                {plan.FeatureLeastConn},
	"first passes over a full server":                    {plan.FeatureServerLimit},
	"max_connections of a server":                        {plan.FeatureServerLimit},
	"max_connections of all":                             {plan.FeatureTotalLimit},
	"fin_timeout":                                        {plan.FeatureFinTimeout},
	"end of a flow after a long rest":                    {plan.FeatureFinTimeout},
}

// layers are features whose every case needs them, by what its name starts with.
var layers = map[string]plan.Feature{
	"PROXY ":      plan.FeatureProxy,
	"send_proxy":  plan.FeatureSendProxy,
	"consumer":    plan.FeatureProxy,
	"server name": plan.FeatureSNI,
	"kafka":       plan.FeatureKafka,
}

// needs are the features that the case takes.
func (c testCase) needs() []plan.Feature {
	all := slices.Clone(needs[c.name])
	for begin, f := range layers {
		if strings.HasPrefix(c.name, begin) {
			all = append(all, f)
		}
	}
	return all
}

// carriedBy tells whether an engine of that kind can pass the case.
func (c testCase) carriedBy(kind plan.Engine) bool {
	return !slices.ContainsFunc(c.needs(), func(f plan.Feature) bool { return !kind.Carries(f) })
}

// turnedAway tells whether a client that no server was found for saw what it
// should. An engine that accepts first can only reset; else it is the client's
// own connect that is refused.
func (r *rig) turnedAway(how string) bool {
	if r.kind.Carries(plan.FeatureAcceptFirst) {
		// The reset can be there before the connect is reported.
		return how == "0 bytes, reset" || how == "reset"
	}
	return how == "refused"
}

// countTurnedAway counts the connections that no server was found for: by their
// records, where the engine has accepted them. Else there was no connection to
// make a record of, only a count.
func (r *rig) countTurnedAway(why engine.Reason) (n int) {
	if r.kind.Carries(plan.FeatureAcceptFirst) {
		return r.log.reasons()[why]
	}
	for _, s := range r.engine.Status().Routes {
		n += int(s.Counters.Ended[why])
	}
	return n
}

// Who counts whole packets cannot tell their payload. The bound is generous and
// yet finds counts of the wrong flow, direction or unit: each of the first bytes
// may have gone in a packet of its own, and later ones in full packets, each of
// which is acknowledged; a handshake, an end and probes come on top.
const (
	perPacket    = 120 // bytes of headers, at most
	tinyPackets  = 4096
	fullPacket   = 700 // half of what Ethernet takes: there are the acknowledgements
	extraPackets = 64
)

// counted tells whether the engine's counts can be of so much payload.
func (r *rig) counted(up, down uint64, payloadUp, payloadDown int) bool {
	if r.kind.Carries(plan.FeatureExactCounts) {
		return up == uint64(payloadUp) && down == uint64(payloadDown)
	}
	payload := payloadUp + payloadDown
	headers := uint64(perPacket * (min(payload, tinyPackets) + payload/fullPacket + extraPackets))
	within := func(n uint64, payload int) bool { return n >= uint64(payload) && n <= uint64(payload)+headers }
	return within(up, payloadUp) && within(down, payloadDown)
}

// idleStep is how coarsely the engine knows for how long nothing has moved.
func (r *rig) idleStep() time.Duration {
	if r.kind.Carries(plan.FeatureExactCounts) {
		return 0
	}
	return time.Second
}
