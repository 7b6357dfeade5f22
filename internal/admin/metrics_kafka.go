package admin

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"midspan/internal/daemon"
	"midspan/internal/engine"
)

// kafkaDescs are the metrics of routes of mode kafka.
type kafkaDescs struct {
	nodeUp, nodeConnections, nodeAccepted, nodeBytes, requests, rewritten, dropped, unknown, answered *prometheus.Desc
}

func newKafkaDescs(d func(name, help string, labels ...string) *prometheus.Desc) kafkaDescs {
	return kafkaDescs{
		nodeUp:          d("kafka_node_up", "Whether new connections to the port of the node have somewhere to go.", "route", "node"),
		nodeConnections: d("kafka_node_connections", "Live connections to the port of the node.", "route", "node"),
		nodeAccepted:    d("kafka_node_accepted_total", "Connections accepted on the port of the node.", "route", "node"),
		nodeBytes:       d("kafka_node_bytes_total", "Bytes forwarded over the port of the node.", "route", "node", "direction"),
		requests:        d("kafka_requests_total", "Requests of clients, by API; other: APIs or versions that are not known here.", "route", "api", "version"),
		rewritten:       d("kafka_rewritten_total", "Answers in which addresses of brokers were written anew.", "route"),
		dropped:         d("kafka_dropped_total", "Addresses of brokers left out of answers: their nodes have no port.", "route"),
		unknown:         d("kafka_unknown_total", "Requests of APIs that are not known here.", "route"),
		answered:        d("kafka_discovery_last_success_timestamp_seconds", "When the cluster last answered which nodes it has, in Unix time.", "route"),
	}
}

// collect shows what a route has done.
func (k *kafkaDescs) collect(to sink, route string, s *engine.KafkaStatus) {
	for _, n := range s.Nodes {
		id := strconv.Itoa(int(n.ID))
		if n.Server != "" { // else somebody has tried the port of no node
			to.gauge(k.nodeUp, number(n.Up), route, id)
		}
		to.gauge(k.nodeConnections, float64(n.Active), route, id)
		to.counter(k.nodeAccepted, n.Accepted, route, id)
		to.counter(k.nodeBytes, n.BytesUp, route, id, "client_to_server")
		to.counter(k.nodeBytes, n.BytesDown, route, id, "server_to_client")
	}
	type series struct{ api, version string }
	requests := map[series]uint64{}
	for _, c := range s.Requests {
		api, version := apiLabels(c)
		requests[series{api, version}] += c.Count
	}
	for l, n := range requests {
		to.counter(k.requests, n, route, l.api, l.version)
	}
	to.counter(k.rewritten, s.Rewritten, route)
	to.counter(k.dropped, s.Dropped, route)
	to.counter(k.unknown, s.Unknown, route)
}

// collectUnreached shows the nodes whose ports lead nowhere, as nodes that are not up.
func (k *kafkaDescs) collectUnreached(to sink, unreached map[string][]daemon.UnreachedNode) {
	for route, nodes := range unreached {
		for _, n := range nodes {
			if n.Port != 0 { // else clients are not told of it: see dropped
				to.gauge(k.nodeUp, 0, route, strconv.Itoa(int(n.ID)))
			}
		}
	}
}

// collectDiscovery shows when clusters have said which nodes they have.
func (k *kafkaDescs) collectDiscovery(to sink, clusters map[string]daemon.ClusterState) {
	for route, c := range clusters {
		if !c.Answered.IsZero() {
			to.gauge(k.answered, seconds(c.Answered), route)
		}
	}
}

// apiLabels are the name and version of what clients have asked for. Clients can
// send any number in both places, and must not make series with that.
func apiLabels(c engine.APICount) (api, version string) {
	const other = "other"
	r := kmsg.RequestForKey(c.Key)
	switch {
	case r == nil:
		return other, other
	case c.Version < 0 || c.Version > r.MaxVersion():
		return kmsg.NameForKey(c.Key), other
	}
	return kmsg.NameForKey(c.Key), strconv.Itoa(int(c.Version))
}
