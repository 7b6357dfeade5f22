package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	valueSize = 100
	pollFor   = 200 * time.Millisecond
	// jobTime bounds what a job waits for, so that a client that hangs says where.
	jobTime = 5 * time.Minute
	// What clients are told of time, where their own defaults are for machines that
	// are not busy: a member of a group that is silent for ten seconds is taken for
	// dead, and what it has read comes again; a transaction is aborted after 40.
	delivery    = 4 * time.Minute
	transaction = 3 * time.Minute
	session     = 30 * time.Second
)

// partitions are those of every topic of the tests.
const partitions = 6

// spread is where a record goes, so that batches fill up.
func spread(n int) int { return n / 50 % partitions }

// record is what a Go client has read.
type record struct {
	topic     string
	partition int
	offset    int64
	value     []byte
}

// goClient is what the jobs need of a client library. Every call is bounded.
type goClient interface {
	// producer makes one with acks=all and idempotence; id is the transactional
	// one, or "".
	producer(id string) (goProducer, error)
	// consumer makes a member of a group that reads from the start what is
	// committed; protocol is "classic", "consumer" or "share".
	consumer(topic, group, protocol string) (goConsumer, error)
	// copy reads n records and writes them to another topic, by transactions that
	// commit the offsets too.
	copy(from, to, name string, n int) error
	describe() (nodes map[int]string, controller int, err error)
}

type goProducer interface {
	// send hands a record over; done is called when it is acknowledged.
	send(topic string, partition int, value []byte, done func(error))
	flush() error
	begin() error
	end(commit bool) error
	close()
}

type goConsumer interface {
	poll() ([]record, error) // what comes within pollFor
	assigned() int           // how many partitions it has
	close()
}

// jobArgs are a program's arguments.
type jobArgs map[string]string

func (a jobArgs) topic(suffix string) string { return a["topic"] + suffix }

// jobs is a run of a client.
type jobs struct {
	jobArgs
	c goClient
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// runJobs is the program of a Go client.
func runJobs(list []string, open func(jobArgs) (goClient, error)) error {
	args := jobArgs{}
	for _, a := range list {
		key, value, _ := strings.Cut(a, "=")
		args[key] = value
	}
	c, err := open(args)
	if err != nil {
		return err
	}
	j := &jobs{args, c}
	all := map[string]func() error{
		"roundtrip": j.roundtrip, "transactions": j.transactions, "describe": j.describe, "stream": j.stream,
		"group":    func() error { return j.group("classic") },
		"group848": func() error { return j.group("consumer") },
	}
	for name := range strings.SplitSeq(args["jobs"], ",") {
		begin := time.Now()
		run := all[name]
		if run == nil {
			return fmt.Errorf("no such job: %s", name)
		}
		if err := run(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		say("done %s in %.1f s", name, time.Since(begin).Seconds())
	}
	return nil
}

// within polls until done says so.
func within(what func() string, step func() (done bool, err error)) error {
	for end := time.Now().Add(jobTime); time.Now().Before(end); {
		if done, err := step(); done || err != nil {
			return err
		}
	}
	return fmt.Errorf("not within %s: %s", jobTime, what())
}

func (j *jobs) roundtrip() error {
	n, err := strconv.Atoi(j.jobArgs["n"])
	if err != nil {
		return err
	}
	begin := time.Now()
	var a acks
	p, err := j.c.producer("")
	if err != nil {
		return err
	}
	defer p.close()
	for i := range n {
		p.send(j.topic(""), spread(i), valueOf(i), a.done)
	}
	if err := errors.Join(p.flush(), a.err()); err != nil {
		return err
	}
	say("produced %d in %.1f s", a.count.Load(), time.Since(begin).Seconds())
	c, err := j.c.consumer(j.topic(""), "roundtrip-"+j.topic(""), "classic")
	if err != nil {
		return err
	}
	defer c.close()
	l := newLedger()
	err = within(func() string { return fmt.Sprintf("consumed %d of %d", len(l.seen), n) }, func() (bool, error) {
		err := each(c, l.add)
		return len(l.seen) >= n, err
	})
	say("consumed %d, %d again", len(l.seen), l.again)
	return err
}

// each takes what comes within a moment.
func each(c goConsumer, take func(record) error) error {
	records, err := c.poll()
	for _, r := range records {
		err = errors.Join(err, take(r))
	}
	return err
}

// numbers is a taker that collects; a number twice is an error.
func numbers(into map[int]bool) func(record) error {
	return func(r record) error {
		n, err := numberOf(r.value)
		if err == nil && into[n] {
			err = fmt.Errorf("record %d is there twice", n)
		}
		into[n] = true
		return err
	}
}

func (j *jobs) transactions() error {
	committed, err := j.commitSome(20, 50)
	if err != nil {
		return err
	}
	if err := j.c.copy(j.topic("-in"), j.topic("-out"), "copy-"+j.topic(""), len(committed)); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	c, err := j.c.consumer(j.topic("-out"), "out-"+j.topic(""), "classic")
	if err != nil {
		return err
	}
	defer c.close()
	read := map[int]bool{}
	err = within(func() string { return fmt.Sprintf("read %d of %d", len(read), len(committed)) }, func() (bool, error) {
		err := each(c, numbers(read))
		return len(read) >= len(committed), err
	})
	// There must be no more.
	if err = errors.Join(err, each(c, numbers(read))); err != nil {
		return err
	}
	if !maps.Equal(read, committed) {
		return fmt.Errorf("committed %v, read %v", slices.Sorted(maps.Keys(committed)), slices.Sorted(maps.Keys(read)))
	}
	say("committed %d of %d", len(read), 20*50)
	return nil
}

// commitSome writes transactions, of which every fourth is aborted.
func (j *jobs) commitSome(rounds, size int) (map[int]bool, error) {
	p, err := j.c.producer("in-" + j.topic(""))
	if err != nil {
		return nil, err
	}
	defer p.close()
	var a acks
	committed := map[int]bool{}
	for r := range rounds {
		if err := p.begin(); err != nil {
			return nil, fmt.Errorf("begin: %w", err)
		}
		for i := range size {
			p.send(j.topic("-in"), spread(r*size+i), valueOf(r*size+i), a.done)
		}
		commit := r%4 != 3
		if err := errors.Join(p.flush(), a.err(), p.end(commit)); err != nil {
			return nil, fmt.Errorf("end (commit: %v): %w", commit, err)
		}
		for i := range size {
			if commit {
				committed[r*size+i] = true
			}
		}
	}
	return committed, nil
}

// members are consumers of one group, and what they have read together. After a
// rebalance a record may come again.
type members struct {
	all  []goConsumer
	read map[int]bool
}

func (m *members) take(r record) error {
	n, err := numberOf(r.value)
	m.read[n] = true
	return err
}

// until has all of them read until ok.
func (m *members) until(ok func() bool) error {
	state := func() string {
		return fmt.Sprintf("members have %v partitions and %d records", m.assigned(), len(m.read))
	}
	return within(state, func() (bool, error) {
		var problems error
		for _, c := range m.all {
			problems = errors.Join(problems, each(c, m.take))
		}
		return ok(), problems
	})
}

// assigned is how many partitions each has.
func (m *members) assigned() (shares []int) {
	for _, c := range m.all {
		shares = append(shares, c.assigned())
	}
	return shares
}

// group has two members of a group share the partitions; one leaves, and the other
// has them all.
func (j *jobs) group(protocol string) error {
	const half = 600
	topic := j.topic("-" + protocol)
	m := &members{read: map[int]bool{}}
	for range 2 {
		c, err := j.c.consumer(topic, "group-"+topic, protocol)
		if err != nil {
			return err
		}
		m.all = append(m.all, c)
	}
	if err := m.until(func() bool {
		now := m.assigned()
		return now[0] > 0 && now[1] > 0 && now[0]+now[1] == partitions
	}); err != nil {
		return err
	}
	say("shared %v", m.assigned())
	if err := errors.Join(j.write(topic, 0, half), m.until(func() bool { return len(m.read) >= half })); err != nil {
		return err
	}
	m.all[1].close()
	m.all = m.all[:1]
	defer m.all[0].close()
	if err := m.until(func() bool { return m.assigned()[0] == partitions }); err != nil {
		return err
	}
	err := errors.Join(j.write(topic, half, 2*half), m.until(func() bool { return len(m.read) >= 2*half }))
	say("group read %d", len(m.read))
	return err
}

func (j *jobs) write(topic string, from, to int) error {
	p, err := j.c.producer("")
	if err != nil {
		return err
	}
	defer p.close()
	var a acks
	for i := from; i < to; i++ {
		p.send(topic, i%partitions, valueOf(i), a.done)
	}
	return errors.Join(p.flush(), a.err())
}

func (j *jobs) describe() error {
	nodes, controller, err := j.c.describe()
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(nodes)) {
		say("node %d %s", id, nodes[id])
	}
	say("controller %d", controller)
	return nil
}

// stream writes and reads until stdin ends, and then reads until all that was
// acknowledged is there.
func (j *jobs) stream() error {
	ended, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // an error is the end, too
		cancel()
	}()
	p, err := j.c.producer("")
	if err != nil {
		return err
	}
	c, err := j.c.consumer(j.topic(""), "stream-"+j.topic(""), cmp.Or(j.jobArgs["group"], "classic"))
	if err != nil {
		return err
	}
	defer c.close()
	var a acks
	sent, written := 0, make(chan error, 1)
	go func() {
		for tick := time.NewTicker(50 * time.Millisecond); ended.Err() == nil; <-tick.C {
			for range 10 {
				p.send(j.topic(""), spread(sent), valueOf(sent), a.done)
				sent++
			}
		}
		written <- p.flush()
		p.close()
	}()
	l := newLedger()
	take := l.add
	if j.jobArgs["group"] == "share" {
		take = l.share
	}
	if err := follow(c, l, take, &a, written); err != nil {
		return err
	}
	if n := a.count.Load(); n != int64(sent) || len(l.seen) != sent {
		return fmt.Errorf("sent %d, acknowledged %d, read %d", sent, n, len(l.seen))
	}
	say("streamed %d, %d again", len(l.seen), l.again)
	return nil
}

// follow reads until the writer has ended and all that it wrote is there.
func follow(c goConsumer, l *ledger, take func(record) error, a *acks, written <-chan error) error {
	var said, end time.Time
	for flushed := false; !flushed || int64(len(l.seen)) < a.count.Load(); {
		if err := errors.Join(each(c, take), a.err()); err != nil {
			return err
		}
		select {
		case err := <-written:
			if err != nil {
				return err
			}
			flushed, end = true, time.Now().Add(jobTime)
		default:
		}
		if time.Since(said) > 250*time.Millisecond {
			say("progress %d %d", a.count.Load(), len(l.seen))
			said = time.Now()
		}
		if flushed && time.Now().After(end) {
			return fmt.Errorf("read %d of %d", len(l.seen), a.count.Load())
		}
	}
	return a.err()
}
