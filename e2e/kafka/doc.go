// Package kafka tests midspan between real clients and a real cluster of Apache
// Kafka, in each of the ways there are to put one behind a forwarder: a port for
// each broker, TLS by server name, and mode kafka. Brokers, forwarders and clients
// are each in a network namespace of their own. A client can reach the forwarder's
// address, or the load balancer's, and nothing else; where brokers are advertised
// by names, it cannot look them up. So an address that gets past a forwarder ends
// the client's job.
//
// Each client is a program that runs jobs, one after the other, and says on stdout
// what it has done; a job that goes wrong ends it with an exit code. Arguments are
// KEY=VALUE: bootstrap, jobs, topic (the start of the topics' names), n, group,
// and what security needs: protocol, mechanism, user, password, ca. The jobs:
//
//	roundtrip     n records with acks=all and idempotence to topic; read by a
//	              group: offsets without a gap, each record once and in order
//	transactions  to topic-in, every fourth aborted; copied to topic-out by
//	              transactions that read, write and commit offsets; read committed
//	group         two members share topic-classic; one leaves, the other takes over
//	group848      the same by the protocol of KIP-848, on topic-consumer
//	describe      the admin's DescribeCluster: "node ID HOST:PORT"
//	stream        writes 200 records a second and reads them, by a group of the
//	              protocol in group (classic, consumer, share), until stdin ends, and
//	              then reads until all that was acknowledged is there; "progress
//	              ACKNOWLEDGED READ". librdkafka's consumer is made anew when for 30 s
//	              it had no connection and tried to make none, and that is told
//
// A record's value is its number in eight digits, padded to 100 bytes.
package kafka
