package peer

import (
	"cmp"
	"fmt"
	"os"
)

// kafkaProxy is grepplabs/kafka-proxy, where $KAFKA_PROXY or the search path has
// it. Its buffers are 64 KiB and not its default's 4, with which it takes twice the
// processor time for large answers.
func kafkaProxy() *Peer {
	return &Peer{
		Name: "kafka-proxy", Title: "kafka-proxy, 64k", Kind: Proxy, Family: "kafka-proxy", Best: true, FDs: 2, Modes: []Mode{ModeKafka}, Optional: true,
		program: cmp.Or(os.Getenv("KAFKA_PROXY"), "kafka-proxy"), version: []string{"version"},
		args: []string{"server", "--http-disable", "--log-level", "error", "--proxy-request-buffer-size", "65536", "--proxy-response-buffer-size", "65536"},
		argsFor: func(routes []Route) (args []string) {
			for _, r := range routes {
				args = append(args, "--bootstrap-server-mapping", fmt.Sprintf("%s,%s", r.To, r.Listen()))
			}
			return args
		},
	}
}
