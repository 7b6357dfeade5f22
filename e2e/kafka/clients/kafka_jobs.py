"""The jobs of the end-to-end tests, with librdkafka; what they are is told in
doc.go."""

import json
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

VALUE_SIZE = 100
POLL = 0.2

# All jobs are bounded, so that a client that hangs says where.
PATIENCE = 300

# For how long a consumer that tries no connection may come to life again.
TORPOR = 30

args = dict(a.split("=", 1) for a in sys.argv[1:])


def say(text):
    print(text, flush=True)


def topic(suffix=""):
    return args["topic"] + suffix


def common():
    conf = {
        "bootstrap.servers": args["bootstrap"],
        "security.protocol": args.get("protocol", "PLAINTEXT"),
        "socket.keepalive.enable": True,
    }
    if "ca" in args:
        conf["ssl.ca.location"] = args["ca"]
    if "mechanism" in args:
        conf |= {"sasl.mechanism": args["mechanism"], "sasl.username": args["user"], "sasl.password": args["password"]}
    return conf


def producer(transactional_id=None):
    conf = common() | {
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 5,
        "message.timeout.ms": 240000,
        "queue.buffering.max.messages": 200000,
    }
    if transactional_id:
        conf |= {"transactional.id": transactional_id, "transaction.timeout.ms": 180000, "message.timeout.ms": 180000}
    return Producer(conf)


def consumer(group, protocol="classic", **more):
    conf = common() | {"group.id": group, "auto.offset.reset": "earliest", "isolation.level": "read_committed"} | more
    if protocol == "consumer":
        conf["group.protocol"] = "consumer"
    return Consumer(conf)


class Pulse:
    """Whether a consumer lives. One that has no connection and tries to make none has
    given up, and whoever is between it and the cluster can do nothing about that:
    2.16.1 was seen to, once, when connections of its ended. One that tries, and fails
    or gets no answer, lives."""

    IDLE = {"INIT", "DOWN", "TRY_CONNECT"}  # states of a broker without a try under way

    def __init__(self):
        self.connects = -1
        self.last = time.monotonic()

    def __call__(self, statistics):
        brokers = json.loads(statistics)["brokers"].values()
        connects = sum(b["connects"] for b in brokers)
        if connects != self.connects or any(b["state"] not in self.IDLE for b in brokers):
            self.connects, self.last = connects, time.monotonic()

    def gone(self):
        return time.monotonic() > self.last + TORPOR


def value(n):
    return (b"%08d" % n).ljust(VALUE_SIZE, b"x")


def number(v):
    if len(v) != VALUE_SIZE:
        raise Exception("a value of %d bytes" % len(v))
    return int(v[:8])


def records(c, most=10000):
    """What comes within a moment. Errors that the client mends by itself are for
    its log only."""
    for m in c.consume(most, POLL):
        e = m.error()
        if e is None:
            yield m
        elif e.fatal() or not (e.retriable() or e.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE)):
            raise KafkaException(e)
        else:
            print("consumer:", e, file=sys.stderr)


class Ledger:
    """What was read of a topic: each record once, none missing, in order."""

    def __init__(self):
        self.partitions = {}
        self.seen = set()
        self.again = 0

    def add(self, m):
        p, offset, n = m.partition(), m.offset(), number(m.value())
        log = self.partitions.setdefault(p, [])
        if offset < len(log):  # after a rebalance
            if log[offset] != n:
                raise Exception("another record at %d/%d" % (p, offset))
            self.again += 1
            return
        if offset > len(log):
            raise Exception("a gap in partition %d: offset %d after %d" % (p, offset, len(log) - 1))
        if log and log[-1] >= n:
            raise Exception("record %d out of order in partition %d" % (n, p))
        if n in self.seen:
            raise Exception("record %d is there twice" % n)
        self.seen.add(n)
        log.append(n)

    def count(self):
        return len(self.seen)


class Acks:
    """Counts acknowledgements and keeps the first failure."""

    def __init__(self):
        self.count = 0
        self.failure = None

    def __call__(self, error, _):
        if error is None:
            self.count += 1
        elif self.failure is None:
            self.failure = KafkaException(error)

    def check(self):
        if self.failure is not None:
            raise self.failure


def send(p, to, v, acks, **where):
    while True:
        try:
            return p.produce(to, v, on_delivery=acks, **where)
        except BufferError:
            p.poll(0.05)


def flush(p):
    if p.flush(PATIENCE) > 0:
        raise Exception("not all is acknowledged after %d s" % PATIENCE)


def within(what):
    """Runs until what it tells is said for too long."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield
    raise Exception("not within %d s: %s" % (PATIENCE, what()))


def roundtrip():
    n = int(args["n"])
    p, acks, begin = producer(), Acks(), time.monotonic()
    for i in range(n):
        send(p, topic(), value(i), acks)
        if i % 1000 == 0:
            p.poll(0)
    flush(p)
    acks.check()
    say("produced %d in %.1f s" % (acks.count, time.monotonic() - begin))
    c, ledger = consumer("roundtrip-" + topic()), Ledger()
    c.subscribe([topic()])
    for _ in within(lambda: "consumed %d of %d" % (ledger.count(), n)):
        for m in records(c):
            ledger.add(m)
        if ledger.count() >= n:
            break
    c.close()
    say("consumed %d, %d again" % (ledger.count(), ledger.again))


def transactions():
    """Every fourth transaction is aborted. What is committed is copied by
    transactions that read and write."""
    rounds, size, committed = 20, 50, set()
    p, acks = producer("in-" + topic()), Acks()
    p.init_transactions(PATIENCE)
    for r in range(rounds):
        numbers = range(r * size, (r + 1) * size)
        p.begin_transaction()
        for i in numbers:
            send(p, topic("-in"), value(i), acks)
        if r % 4 == 3:
            flush(p)
            p.abort_transaction(PATIENCE)
            continue
        p.commit_transaction(PATIENCE)
        committed.update(numbers)
    acks.check()
    copy(len(committed))
    c = consumer("out-" + topic())
    c.subscribe([topic("-out")])
    read = gather(c, len(committed))
    c.close()
    if sorted(read) != sorted(committed):
        raise Exception("committed %s, read %s" % (sorted(committed), sorted(read)))
    say("committed %d of %d" % (len(read), rounds * size))


def gather(c, n):
    """Reads n records, and then a while longer, in which there must be none."""
    read = []
    for _ in within(lambda: "read %d of %d" % (len(read), n)):
        read += [number(m.value()) for m in records(c)]
        if len(read) >= n:
            break
    read += [number(m.value()) for m in records(c)]
    return read


def copy(n):
    c, p, acks, copied = consumer("copy-" + topic()), producer("copy-" + topic()), Acks(), 0
    p.init_transactions(PATIENCE)
    c.subscribe([topic("-in")])
    for _ in within(lambda: "copied %d of %d" % (copied, n)):
        batch = list(records(c))
        if batch:
            p.begin_transaction()
            for m in batch:
                send(p, topic("-out"), m.value(), acks)
            last = {m.partition(): m.offset() for m in batch}
            offsets = [TopicPartition(topic("-in"), k, o + 1) for k, o in last.items()]
            p.send_offsets_to_transaction(offsets, c.consumer_group_metadata(), PATIENCE)
            p.commit_transaction(PATIENCE)
            copied += len(batch)
        if copied >= n:
            break
    acks.check()
    c.close()


def group(protocol):
    """Two consumers share the partitions; one leaves, and the other has them
    all."""
    t, read, acks, p = topic("-" + protocol), set(), Acks(), producer()
    partitions = len(p.list_topics(t, PATIENCE).topics[t].partitions)
    a, b = consumer("group-" + t, protocol), consumer("group-" + t, protocol)

    def write(numbers):
        for i in numbers:
            send(p, t, value(i), acks, partition=i % partitions)
        flush(p)
        acks.check()

    def take(*consumers):
        for c in consumers:
            read.update(number(m.value()) for m in records(c))

    a.subscribe([t])
    b.subscribe([t])
    for _ in within(lambda: "shared as %s and %s" % (a.assignment(), b.assignment())):
        take(a, b)
        if a.assignment() and b.assignment() and len(a.assignment()) + len(b.assignment()) == partitions:
            break
    say("shared %d and %d" % (len(a.assignment()), len(b.assignment())))
    write(range(600))
    for _ in within(lambda: "two consumers read %d of 600" % len(read)):
        take(a, b)
        if len(read) >= 600:
            break
    b.close()
    for _ in within(lambda: "the one that is left has %s" % a.assignment()):
        take(a)
        if len(a.assignment()) == partitions:
            break
    write(range(600, 1200))
    for _ in within(lambda: "the one that is left read up to %d of 1200" % len(read)):
        take(a)
        if len(read) >= 1200:
            break
    a.close()
    say("group read %d" % len(read))


def describe():
    client = AdminClient(common())  # it must live until the answer is there
    d = client.describe_cluster(request_timeout=PATIENCE).result()
    for n in d.nodes:
        say("node %d %s:%d" % (n.id, n.host, n.port))
    say("controller %d" % d.controller.id)


def stream():
    """Produces and consumes until stdin ends, and then until all that was
    acknowledged is read."""
    ended, acks, sent = threading.Event(), Acks(), [0]

    def watch():
        sys.stdin.read()
        ended.set()

    def write():
        p = producer()
        while not ended.is_set():
            for _ in range(10):
                send(p, topic(), value(sent[0]), acks)
                sent[0] += 1
            p.poll(0)
            time.sleep(0.05)
        flush(p)

    threading.Thread(target=watch, daemon=True).start()
    writer = threading.Thread(target=write, daemon=True)
    writer.start()

    def subscribed():
        pulse = Pulse()
        more = {"stats_cb": pulse, "statistics.interval.ms": 1000}
        c = consumer("stream-" + topic(), args.get("group", "classic"), **more)
        c.subscribe([topic()])
        return c, pulse

    c, pulse = subscribed()
    ledger, said, end, anew = Ledger(), 0, None, 0
    while writer.is_alive() or ledger.count() < acks.count:
        for m in records(c):
            ledger.add(m)
        acks.check()
        if pulse.gone():  # as whoever runs such a consumer restarts it
            threading.Thread(target=c.close, daemon=True).start()  # that may never end
            c, pulse = subscribed()
            anew += 1
        now = time.monotonic()
        if now > said + 0.25:
            say("progress %d %d" % (acks.count, ledger.count()))
            said = now
        if ended.is_set():
            end = end or now + PATIENCE
            if now > end:
                raise Exception("read %d of %d" % (ledger.count(), acks.count))
    c.close()
    acks.check()
    if not acks.count == ledger.count() == sent[0]:
        raise Exception("sent %d, acknowledged %d, read %d" % (sent[0], acks.count, ledger.count()))
    say("streamed %d, %d again, consumers that gave up: %d" % (ledger.count(), ledger.again, anew))


JOBS = {
    "roundtrip": roundtrip,
    "transactions": transactions,
    "group": lambda: group("classic"),
    "group848": lambda: group("consumer"),
    "describe": describe,
    "stream": stream,
}

for job in args["jobs"].split(","):
    started = time.monotonic()
    JOBS[job]()
    say("done %s in %.1f s" % (job, time.monotonic() - started))
