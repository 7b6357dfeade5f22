import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.serialization.*;

/**
 * The jobs of the end-to-end tests, with Apache Kafka's own client; what they are
 * is told in doc.go. It uses what clients have from 2.8 to 4.x.
 */
public class KafkaJobs {
  static final int VALUE_SIZE = 100;
  static final Duration POLL = Duration.ofMillis(200);

  /** All jobs are bounded, so that a client that hangs says where. */
  static final long PATIENCE_MS = 300_000;

  static final Map<String, String> args = new HashMap<>();

  static void parse(String[] argv) {
    for (String a : argv) {
      int i = a.indexOf('=');
      args.put(a.substring(0, i), a.substring(i + 1));
    }
  }

  public static void main(String[] argv) throws Exception {
    parse(argv);
    for (String job : args.get("jobs").split(",")) {
      long begin = System.nanoTime();
      switch (job) {
        case "roundtrip": roundtrip(); break;
        case "transactions": transactions(); break;
        case "group": group("classic"); break;
        case "group848": group("consumer"); break;
        case "describe": describe(); break;
        case "stream": stream(); break;
        default: throw new IllegalArgumentException("no such job: " + job);
      }
      say("done %s in %.1f s", job, (System.nanoTime() - begin) / 1e9);
    }
  }

  static void say(String format, Object... values) {
    System.out.println(String.format(Locale.ROOT, format, values));
    System.out.flush();
  }

  static String topic(String suffix) { return args.get("topic") + suffix; }

  static Properties common() {
    Properties p = new Properties();
    p.put("bootstrap.servers", args.get("bootstrap"));
    p.put("security.protocol", args.getOrDefault("protocol", "PLAINTEXT"));
    if (args.containsKey("ca")) {
      p.put("ssl.truststore.type", "PEM");
      p.put("ssl.truststore.location", args.get("ca"));
    }
    if (args.containsKey("mechanism")) {
      String module = args.get("mechanism").startsWith("SCRAM") ? "scram.Scram" : "plain.Plain";
      p.put("sasl.mechanism", args.get("mechanism"));
      p.put("sasl.jaas.config", String.format("org.apache.kafka.common.security.%sLoginModule required username=\"%s\" password=\"%s\";",
          module, args.get("user"), args.get("password")));
    }
    return p;
  }

  static KafkaProducer<byte[], byte[]> producer(String transactionalID) {
    Properties p = common();
    p.put("acks", "all");
    p.put("enable.idempotence", "true");
    p.put("linger.ms", "5");
    p.put("delivery.timeout.ms", "240000");
    if (transactionalID != null) {
      p.put("transactional.id", transactionalID);
      p.put("transaction.timeout.ms", "180000");
    }
    return new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer());
  }

  static KafkaConsumer<byte[], byte[]> consumer(String group, String protocol) {
    Properties p = common();
    p.put("group.id", group);
    p.put("auto.offset.reset", "earliest");
    p.put("isolation.level", "read_committed");
    if (protocol.equals("consumer")) p.put("group.protocol", "consumer");
    else p.put("session.timeout.ms", "30000"); // the older one's is ten seconds, which a busy machine may sleep
    return new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
  }

  static byte[] value(int n) {
    byte[] v = new byte[VALUE_SIZE];
    Arrays.fill(v, (byte) 'x');
    byte[] digits = String.format("%08d", n).getBytes(StandardCharsets.US_ASCII);
    System.arraycopy(digits, 0, v, 0, digits.length);
    return v;
  }

  static int number(byte[] value) {
    if (value.length != VALUE_SIZE) throw new IllegalStateException("a value of " + value.length + " bytes");
    int n = 0;
    for (int i = 0; i < 8; i++) n = n * 10 + value[i] - '0';
    return n;
  }

  /** What was read of a topic: each record once, none missing, in order. */
  static class Ledger {
    final Map<Integer, List<Integer>> partitions = new HashMap<>();
    final BitSet seen = new BitSet();
    int count, again;

    void add(ConsumerRecord<byte[], byte[]> r) {
      List<Integer> log = partitions.computeIfAbsent(r.partition(), p -> new ArrayList<>());
      int n = number(r.value());
      if (r.offset() < log.size()) { // after a rebalance
        if (log.get((int) r.offset()) != n) throw new IllegalStateException("another record at " + r.partition() + "/" + r.offset());
        again++;
        return;
      }
      if (r.offset() > log.size()) throw new IllegalStateException("a gap in partition " + r.partition() + ": offset " + r.offset() + " after " + (log.size() - 1));
      if (!log.isEmpty() && log.get(log.size() - 1) >= n) throw new IllegalStateException("record " + n + " out of order in partition " + r.partition());
      if (seen.get(n)) throw new IllegalStateException("record " + n + " is there twice");
      seen.set(n);
      log.add(n);
      count++;
    }
  }

  /** Counts acknowledgements and keeps the first failure. */
  static class Acks implements Callback {
    final AtomicInteger count = new AtomicInteger();
    final AtomicReference<Exception> failure = new AtomicReference<>();

    public void onCompletion(RecordMetadata m, Exception e) {
      if (e != null) failure.compareAndSet(null, e);
      else count.incrementAndGet();
    }

    void check() throws Exception {
      if (failure.get() != null) throw failure.get();
    }
  }

  static void roundtrip() throws Exception {
    int n = Integer.parseInt(args.get("n"));
    Acks acks = new Acks();
    long begin = System.nanoTime();
    try (KafkaProducer<byte[], byte[]> p = producer(null)) {
      for (int i = 0; i < n; i++) p.send(new ProducerRecord<>(topic(""), value(i)), acks);
      p.flush();
    }
    acks.check();
    say("produced %d in %.1f s", acks.count.get(), (System.nanoTime() - begin) / 1e9);
    Ledger ledger = new Ledger();
    try (KafkaConsumer<byte[], byte[]> c = consumer("roundtrip-" + topic(""), "classic")) {
      c.subscribe(List.of(topic("")));
      long end = System.currentTimeMillis() + PATIENCE_MS;
      while (ledger.count < n) {
        c.poll(POLL).forEach(ledger::add);
        if (System.currentTimeMillis() > end) throw new IllegalStateException("consumed " + ledger.count + " of " + n);
      }
    }
    say("consumed %d, %d again", ledger.count, ledger.again);
  }

  /** Every fourth transaction is aborted. What is committed is copied by transactions that read and write. */
  static void transactions() throws Exception {
    final int rounds = 20, size = 50;
    Set<Integer> committed = new TreeSet<>();
    try (KafkaProducer<byte[], byte[]> p = producer("in-" + topic(""))) {
      p.initTransactions();
      for (int r = 0; r < rounds; r++) {
        p.beginTransaction();
        for (int i = r * size; i < (r + 1) * size; i++) p.send(new ProducerRecord<>(topic("-in"), value(i)));
        if (r % 4 == 3) {
          p.flush();
          p.abortTransaction();
          continue;
        }
        p.commitTransaction();
        for (int i = r * size; i < (r + 1) * size; i++) committed.add(i);
      }
    }
    copy(committed.size());
    Set<Integer> read = new TreeSet<>();
    try (KafkaConsumer<byte[], byte[]> c = consumer("out-" + topic(""), "classic")) {
      c.subscribe(List.of(topic("-out")));
      gather(c, committed.size(), r -> {
        if (!read.add(number(r.value()))) throw new IllegalStateException("copied twice: " + number(r.value()));
      });
    }
    if (!read.equals(committed)) throw new IllegalStateException("committed " + committed + ", read " + read);
    say("committed %d of %d", read.size(), rounds * size);
  }

  interface Taker { void take(ConsumerRecord<byte[], byte[]> r); }

  /** Reads n records, and then a while longer, in which there must be none. */
  static void gather(KafkaConsumer<byte[], byte[]> c, int n, Taker t) {
    int got = 0;
    long end = System.currentTimeMillis() + PATIENCE_MS;
    while (got < n) {
      for (ConsumerRecord<byte[], byte[]> r : c.poll(POLL)) {
        t.take(r);
        got++;
      }
      if (System.currentTimeMillis() > end) throw new IllegalStateException("read " + got + " of " + n);
    }
    for (ConsumerRecord<byte[], byte[]> r : c.poll(POLL)) throw new IllegalStateException("one more than " + n + ": " + number(r.value()));
  }

  static void copy(int n) {
    try (KafkaConsumer<byte[], byte[]> c = consumer("copy-" + topic(""), "classic");
        KafkaProducer<byte[], byte[]> p = producer("copy-" + topic(""))) {
      p.initTransactions();
      c.subscribe(List.of(topic("-in")));
      long end = System.currentTimeMillis() + PATIENCE_MS;
      for (int copied = 0; copied < n; ) {
        if (System.currentTimeMillis() > end) throw new IllegalStateException("copied " + copied + " of " + n);
        ConsumerRecords<byte[], byte[]> records = c.poll(POLL);
        if (records.isEmpty()) continue;
        p.beginTransaction();
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        for (ConsumerRecord<byte[], byte[]> r : records) {
          p.send(new ProducerRecord<>(topic("-out"), r.value()));
          offsets.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
          copied++;
        }
        p.sendOffsetsToTransaction(offsets, c.groupMetadata());
        p.commitTransaction();
      }
    }
  }

  /** Two consumers share the partitions; one leaves, and the other has them all. */
  static void group(String protocol) throws Exception {
    final String topic = topic("-" + protocol);
    int partitions;
    Set<Integer> read = new TreeSet<>();
    try (KafkaProducer<byte[], byte[]> p = producer(null);
        KafkaConsumer<byte[], byte[]> a = consumer("group-" + topic, protocol);
        KafkaConsumer<byte[], byte[]> b = consumer("group-" + topic, protocol)) {
      partitions = p.partitionsFor(topic).size();
      a.subscribe(List.of(topic));
      b.subscribe(List.of(topic));
      long end = System.currentTimeMillis() + PATIENCE_MS;
      while (a.assignment().isEmpty() || b.assignment().isEmpty() || a.assignment().size() + b.assignment().size() != partitions) {
        a.poll(POLL);
        b.poll(POLL);
        if (System.currentTimeMillis() > end) throw new IllegalStateException("partitions are not shared: " + a.assignment() + ", " + b.assignment());
      }
      say("shared %d and %d", a.assignment().size(), b.assignment().size());
      write(p, topic, partitions, 0, 600);
      while (read.size() < 600) {
        take(a, read);
        take(b, read);
        if (System.currentTimeMillis() > end) throw new IllegalStateException("two consumers read " + read.size() + " of 600");
      }
      b.close();
      while (a.assignment().size() != partitions) {
        take(a, read);
        if (System.currentTimeMillis() > end) throw new IllegalStateException("the one that is left has " + a.assignment());
      }
      write(p, topic, partitions, 600, 1200);
      while (read.size() < 1200) {
        take(a, read);
        if (System.currentTimeMillis() > end) throw new IllegalStateException("the one that is left read up to " + read.size() + " of 1200");
      }
    }
    say("group read %d", read.size());
  }

  static void write(KafkaProducer<byte[], byte[]> p, String topic, int partitions, int from, int to) throws Exception {
    Acks acks = new Acks();
    for (int i = from; i < to; i++) p.send(new ProducerRecord<>(topic, i % partitions, null, value(i)), acks);
    p.flush();
    acks.check();
  }

  static void take(KafkaConsumer<byte[], byte[]> c, Set<Integer> read) {
    for (ConsumerRecord<byte[], byte[]> r : c.poll(POLL)) read.add(number(r.value()));
    c.commitSync();
  }

  static void describe() throws ExecutionException, InterruptedException {
    try (Admin a = Admin.create(common())) {
      for (Node n : a.describeCluster().nodes().get()) say("node %d %s:%d", n.id(), n.host(), n.port());
      say("controller %d", a.describeCluster().controller().get().id());
    }
  }

  /** Reads what comes within a moment, and tells how many records it has seen. */
  interface Reader { int read(); }

  static void stream() throws Exception {
    Ledger ledger = new Ledger();
    try (KafkaConsumer<byte[], byte[]> c = consumer("stream-" + topic(""), args.getOrDefault("group", "classic"))) {
      c.subscribe(List.of(topic("")));
      stream(() -> {
        c.poll(POLL).forEach(ledger::add);
        return ledger.count;
      });
    }
    say("streamed %d, %d again", ledger.count, ledger.again);
  }

  /** Produces and consumes until stdin ends, and then until all that was acknowledged is read. */
  static void stream(Reader reader) throws Exception {
    AtomicBoolean ended = new AtomicBoolean();
    watchStdin(ended);
    Acks acks = new Acks();
    AtomicInteger sent = new AtomicInteger();
    Thread writer = new Thread(() -> {
      try (KafkaProducer<byte[], byte[]> p = producer(null)) {
        while (!ended.get()) {
          for (int i = 0; i < 10; i++) p.send(new ProducerRecord<>(topic(""), value(sent.getAndIncrement())), acks);
          Thread.sleep(50);
        }
        p.flush();
      } catch (Exception e) {
        acks.failure.compareAndSet(null, e);
      }
    });
    writer.start();
    int seen = 0;
    long said = 0, end = Long.MAX_VALUE;
    while (writer.isAlive() || seen < acks.count.get()) {
      seen = reader.read();
      acks.check();
      long now = System.currentTimeMillis();
      if (now > said + 250) {
        say("progress %d %d", acks.count.get(), seen);
        said = now;
      }
      if (ended.get()) end = Math.min(end, now + PATIENCE_MS);
      if (now > end) throw new IllegalStateException("read " + seen + " of " + acks.count.get());
    }
    acks.check();
    if (acks.count.get() != sent.get() || seen != sent.get())
      throw new IllegalStateException("sent " + sent.get() + ", acknowledged " + acks.count.get() + ", read " + seen);
  }

  static void watchStdin(AtomicBoolean ended) {
    Thread watch = new Thread(() -> {
      try {
        while (System.in.read() >= 0) { }
      } catch (IOException e) {
        // It is the end, too.
      }
      ended.set(true);
    });
    watch.setDaemon(true);
    watch.start();
  }
}
