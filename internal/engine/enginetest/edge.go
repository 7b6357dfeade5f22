package enginetest

import (
	"fmt"
	"time"

	"midspan/internal/engine"
)

// edge is one way a connection can go, as a script that has both ends in hand.
// It returns what they saw. The script runs over a direct connection first; what
// comes of it there must come of it through the engine.
type edge struct {
	name   string
	script func(client, server *peer) string
	want   string
	reason engine.Reason // of the end record; "": nobody can say who was first
}

func edgeCases() []testCase {
	var cases []testCase
	for _, e := range append(orderlyEdges(), cutEdges()...) {
		cases = append(cases, testCase{e.name, e.test})
	}
	return cases
}

func (e edge) test(r *rig) {
	backend := r.serve(nil)
	client, server := r.direct(backend)
	if direct := e.script(client, server); direct != e.want {
		r.Fatalf("over a direct connection: %s\nwant: %s\nThis kernel does not do what the case is about.", direct, e.want)
	}
	client.Close()
	server.Close()

	client, server = r.pair(r.route("", backend), backend)
	if got := e.script(client, server); got != e.want {
		r.Errorf("through the engine: %s\nover a direct connection: %s", got, e.want)
	}
	// What the script has left open would keep the connection alive.
	client.Close()
	server.Close()
	if end := r.ended(client.local); e.reason != "" && end.Reason != e.reason {
		r.Errorf("the record says %q (%s), want %q", end.Reason, end.Err, e.reason)
	}
}

// during runs send beside the script, for what does not fit into the buffers
// between the two ends.
func during(send func() string, script func()) string {
	done := make(chan string, 1)
	go func() { done <- send() }()
	script()
	return <-done
}

func orderlyEdges() []edge {
	return []edge{
		{"server speaks first", func(client, server *peer) string {
			server.send(100)
			greeting := client.get(100)
			client.send(10)
			client.Close()
			return fmt.Sprintf("greeting: %s; answer: %s", greeting, server.all())
		}, "greeting: 100 bytes; answer: 10 bytes, end", engine.ClosedByClient},

		{"half-close by client, late answer", func(client, server *peer) string {
			var request, answer got
			during(func() string {
				client.send(300_000)
				client.CloseWrite()
				return ""
			}, func() { request = server.all() })
			time.Sleep(300 * time.Millisecond) // the server thinks
			during(func() string {
				server.send(1_000_000)
				server.Close()
				return ""
			}, func() { answer = client.all() })
			return fmt.Sprintf("request: %s; answer: %s", request, answer)
		}, "request: 300000 bytes, end; answer: 1000000 bytes, end", engine.ClosedByClient},

		{"half-close by client without a byte", func(client, server *peer) string {
			client.CloseWrite()
			request := server.all()
			server.send(1000)
			server.Close()
			return fmt.Sprintf("request: %s; answer: %s", request, client.all())
		}, "request: 0 bytes, end; answer: 1000 bytes, end", engine.ClosedByClient},

		{"half-close by server, client goes on", func(client, server *peer) string {
			var upload got
			server.send(1000)
			server.CloseWrite()
			greeting := client.all()
			time.Sleep(100 * time.Millisecond) // not at once
			during(func() string {
				client.send(1_000_000)
				client.Close()
				return ""
			}, func() { upload = server.all() })
			return fmt.Sprintf("greeting: %s; upload: %s", greeting, upload)
		}, "greeting: 1000 bytes, end; upload: 1000000 bytes, end", engine.ClosedByServer},

		{"both go without a word", func(client, server *peer) string {
			client.Close()
			return "server: " + server.all().String()
		}, "server: 0 bytes, end", engine.ClosedByClient},

		{"server closes at once", func(client, server *peer) string {
			server.Close()
			return "client: " + client.all().String()
		}, "client: 0 bytes, end", engine.ClosedByServer},

		{"data and end together", func(client, server *peer) string {
			client.send(1000)
			client.CloseWrite()
			server.send(2000)
			server.CloseWrite()
			return fmt.Sprintf("server: %s; client: %s", server.all(), client.all())
		}, "server: 1000 bytes, end; client: 2000 bytes, end", ""},
	}
}
