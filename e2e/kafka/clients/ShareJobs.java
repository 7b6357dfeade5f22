import java.util.BitSet;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** The job stream with a share group (KIP-932), which only new clients have. */
public class ShareJobs {
  public static void main(String[] argv) throws Exception {
    KafkaJobs.parse(argv);
    Properties p = KafkaJobs.common();
    p.put("group.id", "stream-" + KafkaJobs.topic(""));
    BitSet seen = new BitSet();
    int[] again = {0};
    try (KafkaShareConsumer<byte[], byte[]> c = new KafkaShareConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      c.subscribe(List.of(KafkaJobs.topic("")));
      KafkaJobs.stream(() -> {
        for (ConsumerRecord<byte[], byte[]> r : c.poll(KafkaJobs.POLL)) { // and that accepts those before
          int n = KafkaJobs.number(r.value());
          if (seen.get(n)) again[0]++;
          seen.set(n);
        }
        return seen.cardinality();
      });
    }
    KafkaJobs.say("streamed %d, %d again", seen.cardinality(), again[0]);
  }
}
