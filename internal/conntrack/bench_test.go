package conntrack

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
)

func BenchmarkDecode(b *testing.B) {
	m := encode(random(rand.New(rand.NewPCG(9, 9))), 0)
	var f Flow
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.decode(m); err != nil {
			b.Fatal(err)
		}
	}
}

// flood begins n UDP flows, from one socket to as many addresses.
func flood(tb testing.TB, n int) {
	tb.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	for i := range n {
		to := &net.UDPAddr{IP: net.IPv4(127, 1, byte(i/250), byte(i%250)), Port: 9}
		if _, err := c.WriteToUDP([]byte("x"), to); err != nil {
			tb.Fatal(err)
		}
	}
}

const marked = `
table inet t {
	chain out { type filter hook output priority 0; udp dport 9 ct mark set 0x9; }
	chain in { type filter hook input priority 0; udp dport 9 drop; }
}`

// BenchmarkDump reports ns, bytes and allocations of a dump of 20,000 flows.
func BenchmarkDump(b *testing.B) {
	if !alone(b) {
		return
	}
	nft(b, marked)
	c := open(b)
	flood(b, 20000)
	n := 0
	for _, mask := range []uint32{^uint32(0), 0} {
		b.Run(fmt.Sprintf("mask=%#x", mask), func(b *testing.B) {
			b.ReportAllocs()
			n = 0
			for b.Loop() {
				if err := c.Dump(9&mask, mask, func(*Flow) { n++ }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/flow")
			b.ReportMetric(float64(n)/float64(b.N), "flows/op")
		})
	}
}

// BenchmarkReceive reads what 20,000 new flows have left in the buffer; making
// them is not counted.
func BenchmarkReceive(b *testing.B) {
	if !alone(b) {
		return
	}
	const flows = 20000
	nft(b, marked)
	c := open(b)
	l, err := Listen(9, ^uint32(0), 64<<20, New)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.ReportAllocs()
	total := 0
	for b.Loop() {
		b.StopTimer()
		if err := c.Dump(9, ^uint32(0), func(f *Flow) { _ = c.Delete(f) }); err != nil {
			b.Fatal(err)
		}
		flood(b, flows)
		b.StartTimer()
		for n := 0; n < flows; {
			if err := l.Receive(func(Event, *Flow) { n++; total++ }); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(total), "ns/event")
}

// No flow and no event costs an allocation; a dump has a few of its own.
func TestAllocations(t *testing.T) {
	if !alone(t) {
		return
	}
	nft(t, marked)
	c := open(t)
	l, err := Listen(9, ^uint32(0), 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := 0
	dump := testing.AllocsPerRun(10, func() {
		flows := 0
		if n++; n == 1 {
			flood(t, 100)
		}
		if err := c.Dump(9, ^uint32(0), func(*Flow) { flows++ }); err != nil || flows != 100 {
			t.Fatal(flows, err)
		}
	})
	if dump > 10 {
		t.Errorf("%v allocations for a dump of 100 flows", dump)
	}
	events := 0
	count := func(Event, *Flow) { events++ }
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for events < 100 {
		if err := l.Receive(count); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.Mallocs - before.Mallocs; got > 20 {
		t.Errorf("%d allocations for 100 events", got)
	}
}
