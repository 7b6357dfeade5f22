package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// dial connects as a machine of the LAN.
func (k *Kafka) dial(_ context.Context, network, addr string) (net.Conn, error) {
	return k.LAN.Net.DialTimeout(network, addr, glance)
}

// Metadata is what the cluster says now of its brokers, and of one topic or (for
// "") all of them. kadm would say what it remembers.
func (k *Kafka) Metadata(topic string) (*kmsg.MetadataResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), glance)
	defer cancel()
	request := kmsg.NewPtrMetadataRequest()
	if topic != "" {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &topic
		request.Topics = append(request.Topics, t)
	}
	return request.RequestWith(ctx, k.client)
}

// until waits for what the cluster says. It asks less often than Until, since a
// question costs a busy machine more than a look.
func (k *Kafka) until(topic, what string, ok func(*kmsg.MetadataResponse) bool) {
	k.t.Helper()
	Until(k.t, kafkaStart, what, func() bool {
		k.wantAlive()
		m, err := k.Metadata(topic)
		if err == nil && ok(m) {
			return true
		}
		time.Sleep(100 * time.Millisecond)
		return false
	})
}

func (k *Kafka) awaitBrokers(n int) {
	k.t.Helper()
	begin := time.Now()
	k.until("", fmt.Sprintf("Kafka has %d brokers", n), func(m *kmsg.MetadataResponse) bool { return len(m.Brokers) == n })
	k.t.Logf("Kafka %s: %d brokers after %s", k.spec.Version, n, time.Since(begin).Round(100*time.Millisecond))
}

func (k *Kafka) awaitBroker(id int) {
	k.t.Helper()
	k.until("", fmt.Sprintf("Kafka's node %d is a broker", id), func(m *kmsg.MetadataResponse) bool {
		return slices.ContainsFunc(m.Brokers, func(b kmsg.MetadataResponseBroker) bool { return int(b.NodeID) == id })
	})
}

// wantAlive ends the test when a node has ended that nobody stopped.
func (k *Kafka) wantAlive() {
	k.t.Helper()
	for id, n := range k.nodes {
		if !n.stopped && !n.Alive() {
			k.t.Fatalf("Kafka's node %d has ended", id)
		}
	}
}

// CreateTopic makes a topic with three replicas of each partition.
func (k *Kafka) CreateTopic(name string, partitions int) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kafkaAnswer)
	defer cancel()
	// It is there already where the answer to a first try was lost: nobody else has
	// topics of that name.
	if _, err := k.Admin.CreateTopic(ctx, int32(partitions), kafkaVoters, nil, name); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		k.t.Fatalf("create topic %s: %v", name, err)
	}
	// A broker tells of a topic a moment after the controller has made it.
	k.until(name, fmt.Sprintf("topic %s has %d partitions, with all replicas in sync", name, partitions), func(m *kmsg.MetadataResponse) bool {
		return inSync(m) && len(m.Topics) == 1 && len(m.Topics[0].Partitions) == partitions
	})
}

// DeleteTopic gives back the disk that a topic takes.
func (k *Kafka) DeleteTopic(name string) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kafkaAnswer)
	defer cancel()
	if _, err := k.Admin.DeleteTopic(ctx, name); err != nil {
		k.t.Errorf("delete topic %s: %v", name, err)
	}
}

// Records is how many offsets the partitions of a topic have, from the first.
func (k *Kafka) Records(topic string) int {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kafkaAnswer)
	defer cancel()
	ends, err := k.Admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		k.t.Fatalf("end offsets of %s: %v", topic, err)
	}
	n := 0
	ends.Each(func(o kadm.ListedOffset) { n += int(o.Offset) })
	return n
}

// AwaitInSync waits until every replica of every partition is in step.
func (k *Kafka) AwaitInSync() {
	k.t.Helper()
	k.until("", "all replicas are in sync", inSync)
}

// inSync tells whether every replica of what the cluster told of is in step.
func inSync(m *kmsg.MetadataResponse) bool {
	for _, t := range m.Topics {
		if t.ErrorCode != 0 {
			return false
		}
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 || p.Leader < 0 || len(p.ISR) < len(p.Replicas) {
				return false
			}
		}
	}
	return true
}

// AwaitLeads waits until a node leads so many partitions of a topic, of which it is
// the preferred leader, or more. That is asked for again and again: a node that was fenced for
// a moment, or is not in sync yet, leads nothing until somebody asks.
func (k *Kafka) AwaitLeads(topic string, node, partitions int) {
	k.t.Helper()
	k.until(topic, fmt.Sprintf("node %d leads %d partitions of %s", node, partitions, topic), func(m *kmsg.MetadataResponse) bool {
		leads := 0
		for _, t := range m.Topics {
			for _, p := range t.Partitions {
				if int(p.Leader) == node {
					leads++
				}
			}
		}
		if leads < partitions {
			k.elect(topic)
		}
		return leads >= partitions
	})
}

// elect has the preferred leaders of a topic lead, where they can.
func (k *Kafka) elect(topic string) {
	ctx, cancel := context.WithTimeout(context.Background(), glance)
	defer cancel()
	_, _ = k.Admin.ElectLeaders(ctx, kadm.ElectPreferredReplica, nil) // who waits looks at what came of it
}

// Move puts partitions of a topic on these nodes, and waits until they are there
// and the first of the nodes leads them.
func (k *Kafka) Move(topic string, to []int, partitions ...int) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kafkaAnswer)
	defer cancel()
	var request kadm.AlterPartitionAssignmentsReq
	nodes := make([]int32, 0, len(to))
	for _, n := range to {
		nodes = append(nodes, int32(n))
	}
	for _, p := range partitions {
		request.Assign(topic, int32(p), nodes)
	}
	moved, err := k.Admin.AlterPartitionAssignments(ctx, request)
	if err == nil {
		err = moved.Error()
	}
	if err != nil {
		k.t.Fatalf("move partitions of %s to %v: %v", topic, to, err)
	}
	all := func(ok func(p kmsg.MetadataResponseTopicPartition) bool) func(*kmsg.MetadataResponse) bool {
		return func(m *kmsg.MetadataResponse) bool {
			n := 0
			for _, p := range m.Topics[0].Partitions {
				if slices.Contains(partitions, int(p.Partition)) && ok(p) {
					n++
				}
			}
			return n == len(partitions)
		}
	}
	led := all(func(p kmsg.MetadataResponseTopicPartition) bool { return p.Leader == nodes[0] })
	k.until(topic, fmt.Sprintf("partitions %v of %s are on nodes %v", partitions, topic, to), all(func(p kmsg.MetadataResponseTopicPartition) bool {
		return slices.Equal(p.Replicas, nodes) && len(p.ISR) == len(nodes)
	}))
	// Whoever led and is a replica still would go on to lead.
	k.until(topic, fmt.Sprintf("node %d leads partitions %v of %s", to[0], partitions, topic), func(m *kmsg.MetadataResponse) bool {
		if led(m) {
			return true
		}
		k.elect(topic)
		return false
	})
}

// AddUsers makes a listener's users known to SCRAM too.
func (k *Kafka) AddUsers(users map[string]string) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kafkaAnswer)
	defer cancel()
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		var all []kadm.UpsertSCRAM // a user comes once in each request
		for user, password := range users {
			all = append(all, kadm.UpsertSCRAM{User: user, Mechanism: m, Iterations: 4096, Password: password})
		}
		done, err := k.Admin.AlterUserSCRAMs(ctx, nil, all)
		if err == nil {
			err = done.Error()
		}
		if err != nil {
			k.t.Fatalf("add users for %s: %v", m, err)
		}
	}
}

// ShareFromStart has a share group, which need not be there, begin with the first
// record of a topic.
func (k *Kafka) ShareFromStart(group string) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kafkaAnswer)
	defer cancel()
	value := "earliest"
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = "share.auto.offset.reset", &value
	resource.Configs = append(resource.Configs, config)
	request := kmsg.NewPtrIncrementalAlterConfigsRequest()
	request.Resources = append(request.Resources, resource)
	done, err := request.RequestWith(ctx, k.client)
	if err == nil {
		err = kerr.ErrorForCode(done.Resources[0].ErrorCode)
	}
	if err != nil {
		k.t.Fatalf("where share group %s begins: %v", group, err)
	}
}
