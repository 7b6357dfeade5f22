package spark

import (
	"testing"

	"midspan/e2e/rig"
)

// release is a release of Spark: its packages on PyPI, and the jars of its Kafka
// source on Maven Central. What else these need, Spark brings along.
type release struct {
	name   string
	python []string
	jars   []string
}

var (
	// spark35 is the closest to Synapse's pools. Its client of Kafka, 3.4, learns
	// where brokers are from Metadata and FindCoordinator alone.
	spark35 = release{"Spark 3.5", []string{"pyspark==3.5.7"}, []string{
		"org.apache.spark:spark-sql-kafka-0-10_2.12:3.5.7",
		"org.apache.spark:spark-token-provider-kafka-0-10_2.12:3.5.7",
		"org.apache.kafka:kafka-clients:3.4.1",
		"org.apache.commons:commons-pool2:2.11.1",
	}}
	// spark4's client, 3.9, also believes what Fetch answers say of brokers
	// (KIP-951).
	spark4 = release{"Spark 4", []string{"pyspark==4.0.0"}, []string{
		"org.apache.spark:spark-sql-kafka-0-10_2.13:4.0.0",
		"org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.0.0",
		"org.apache.kafka:kafka-clients:3.9.0",
		"org.apache.commons:commons-pool2:2.12.0",
	}}
)

// installed is a Spark that can be started.
type installed struct {
	release
	interpreter string
	classpath   string
}

// install downloads a release unless it is there. Call it before rig.Isolate.
func install(t *testing.T, r release) installed {
	t.Helper()
	rig.Java(t)
	return installed{r, rig.Python(t, r.python...), rig.JarsAlone(t, r.jars...)}
}
