package brokers_test

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"midspan/internal/brokers"
	"midspan/internal/brokers/brokertest"
)

func dial(t *testing.T, b *brokertest.Broker) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go b.Serve(ln)
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestIsNode(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	nodes := []brokers.Node{{ID: 7, Host: "a", Port: 9092}}
	for _, c := range []struct {
		broker    brokertest.Broker
		id        int32
		is, known bool
	}{
		{brokertest.Broker{ID: 7}, 7, true, true},
		{brokertest.Broker{ID: 7}, 8, false, true},
		{brokertest.Broker{ID: 7, Secretive: true}, 7, false, false},
		{brokertest.Broker{ID: 7, Secretive: true}, 8, false, false},
	} {
		c.broker.Nodes = nodes
		conn := dial(t, &c.broker)
		got, err := brokers.Ask(ctx, conn)
		if err != nil {
			t.Fatal(err)
		}
		if is, known := brokers.IsNode(ctx, conn, got.APIs, c.id); is != c.is || known != c.known {
			t.Errorf("%+v: is %d: %t, known %t", c.broker, c.id, is, known)
		}
		if _, known := brokers.IsNode(ctx, conn, nil, c.id); known {
			t.Error("a broker without DescribeConfigs says who it is")
		}
	}
}

func TestMechanisms(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	b := &brokertest.Broker{Mechanisms: []string{"SCRAM-SHA-256", "GSSAPI"}}
	conn := dial(t, b)
	c, err := brokers.Ask(ctx, conn)
	if brokers.KindOf(err) != brokers.WantsSASL {
		t.Fatal(err)
	}
	names, err := brokers.Mechanisms(ctx, dial(t, b), c.APIs)
	if err != nil || !slices.Equal(names, []string{"GSSAPI", "SCRAM-SHA-256"}) {
		t.Error(names, err)
	}
	if _, err := brokers.Mechanisms(ctx, dial(t, b), nil); brokers.KindOf(err) != brokers.OtherVersions {
		t.Error(err)
	}
}
