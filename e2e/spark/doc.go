// Package spark tests what midspan is for: Spark Structured Streaming, in a
// network that can reach the forwarder only, reads a topic of a real Kafka cluster
// through each of the designs that docs/kafka.md describes, while a broker is
// restarted.
//
// The job is notebook.py. Spark comes from PyPI, its Kafka source from Maven
// Central; both are kept in the user's cache.
package spark
