"""The notebook of the reference design: a Kafka topic, from its first record on,
into a checkpointed sink; then what has arrived is counted.

Its only argument is a JSON object:

  source    options of Spark's Kafka source: kafka.bootstrap.servers and what the
            design needs beside it
  topic     what to read
  records   how many records the topic will have at the end; all of them are waited for
  sink      the directory for the sink and its checkpoint

Each line that it prints is a JSON object: {"batch": …, "read": …} after each
micro-batch, with the records read so far over all partitions, and at the end
{"partitions": […], "values": …} beside them, which is what the sink holds.
"""

import json
import sys
import time

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

job = json.loads(sys.argv[1])
spark = SparkSession.builder.appName("orders").getOrCreate()

records = (
    spark.readStream.format("kafka")
    .options(**job["source"])
    .option("subscribe", job["topic"])
    .option("startingOffsets", "earliest")
    .option("maxOffsetsPerTrigger", 15000)  # so that many batches meet what the test does
    .load()
)

query = (
    records.selectExpr("partition", "offset", "CAST(value AS STRING) AS value")
    .writeStream.format("parquet")
    .option("path", job["sink"] + "/records")
    .option("checkpointLocation", job["sink"] + "/checkpoint")
    .start()
)


def say(**what):
    print(json.dumps(what), flush=True)


def read_so_far(progress):
    """The records up to the end offsets of a batch: every partition starts at 0."""
    ends = progress["sources"][0]["endOffset"]
    if isinstance(ends, str):  # Spark 4; it is a dict in 3.5
        ends = json.loads(ends)
    return sum(ends.get(job["topic"], {}).values())


batch, read = -1, 0
while read < job["records"]:
    if not query.isActive:
        raise query.exception() or RuntimeError("the query has stopped")
    progress = query.lastProgress
    if progress and progress["batchId"] != batch:
        batch, read = progress["batchId"], read_so_far(progress)
        say(batch=batch, read=read)
    time.sleep(0.1)
query.stop()

sink = spark.read.parquet(job["sink"] + "/records")
partitions = sink.groupBy("partition").agg(
    f.count("*").alias("count"),
    f.countDistinct("offset").alias("distinct"),
    f.min("offset").alias("first"),
    f.max("offset").alias("last"),
)
values = sink.agg(f.countDistinct("value")).first()[0]
say(batch=batch, read=read, partitions=[row.asDict() for row in partitions.orderBy("partition").collect()], values=values)
spark.stop()
