// Package kafkatest has no code: its tests put mode kafka between the Kafka
// clients that Go programs use (franz-go, sarama, kafka-go) and a cluster of
// franz-go's kfake, which can play brokers of any version since 0.11 and whose
// leaders, coordinators and nodes change on demand. A client dials by a function
// that refuses, and reports, every address that is not the forwarder's.
//
// Limits: kfake is not Kafka (e2e has real brokers), and librdkafka and Java are
// not here.
package kafkatest
