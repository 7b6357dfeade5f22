package enginetest

import (
	"fmt"

	"midspan/internal/engine"
)

// much does not fit into the buffers of a path whose ends do not read.
const much = 512 << 20

// cutEdges are those in which a connection ends in disorder. A transfer that was
// cut must never look complete.
func cutEdges() []edge {
	return append(resetEdges(), []edge{
		{"client closes with unread data", func(client, server *peer) string {
			server.send(20_000)
			client.get(1)
			client.Close()
			return "server: " + server.all().String()
		}, "server: 0 bytes, reset", engine.ResetByClient},

		{"server closes with unread data after its answer", func(client, server *peer) string {
			client.send(20_000)
			server.get(1)
			server.send(1000)
			server.Close()
			return "client: " + client.all().String()
		}, "client: 1000 bytes, reset", engine.ResetByServer},

		{"server closes with unread data in a long answer", func(client, server *peer) string {
			var answer got
			client.send(20_000)
			server.get(1)
			during(func() string {
				server.send(8 << 20)
				server.Close()
				return ""
			}, func() { answer = client.all() })
			return "client: " + answer.some()
		}, "client: some, reset", engine.ResetByServer},

		{"client has gone and server goes on", func(client, server *peer) string {
			client.Close()
			return fmt.Sprintf("server: %s, then %s", server.all(), server.send(much))
		}, "server: 0 bytes, end, then reset", engine.ResetByClient},

		{"server has gone and client goes on", func(client, server *peer) string {
			server.Close()
			return fmt.Sprintf("client: %s, then %s", client.all(), client.send(much))
		}, "client: 0 bytes, end, then reset", engine.ResetByServer},
	}...)
}

func resetEdges() []edge {
	return []edge{
		{"reset by client", func(client, server *peer) string {
			client.send(1000)
			first := server.get(1000)
			client.reset()
			return fmt.Sprintf("server: %s, then %s", first, server.all())
		}, "server: 1000 bytes, then 0 bytes, reset", engine.ResetByClient},

		{"reset by server", func(client, server *peer) string {
			server.send(1000)
			first := client.get(1000)
			server.reset()
			return fmt.Sprintf("client: %s, then %s", first, client.all())
		}, "client: 1000 bytes, then 0 bytes, reset", engine.ResetByServer},

		{"reset by client in the middle of an upload", func(client, server *peer) string {
			return "server: " + resetAfter(client, server).some()
		}, "server: some, reset", engine.ResetByClient},

		{"reset by server in the middle of a download", func(client, server *peer) string {
			return "client: " + resetAfter(server, client).some()
		}, "client: some, reset", engine.ResetByServer},

		{"reset by client in the middle of a download", func(client, server *peer) string {
			sent := during(func() string { return server.send(much) }, func() {
				client.get(8 << 20)
				client.reset()
			})
			return "server: " + sent
		}, "server: reset", engine.ResetByClient},

		{"reset by server in the middle of an upload", func(client, server *peer) string {
			sent := during(func() string { return client.send(much) }, func() {
				server.get(8 << 20)
				server.reset()
			})
			return "client: " + sent
		}, "client: reset", engine.ResetByServer},

		{"reset by client while it waits for the answer", func(client, server *peer) string {
			client.send(1000)
			client.CloseWrite()
			request := server.all()
			client.reset()
			return fmt.Sprintf("server: %s, then %s", request, server.send(much))
		}, "server: 1000 bytes, end, then reset", engine.ResetByClient},

		{"reset by server in its answer after half-close", func(client, server *peer) string {
			client.CloseWrite()
			request := server.all()
			server.send(1000)
			first := client.get(1000)
			server.reset()
			return fmt.Sprintf("server: %s; client: %s, then %s", request, first, client.all())
		}, "server: 0 bytes, end; client: 1000 bytes, then 0 bytes, reset", engine.ResetByServer},

		{"reset by client in its upload after half-close", func(client, server *peer) string {
			server.CloseWrite()
			greeting := client.all()
			client.send(1000)
			first := server.get(1000)
			client.reset()
			return fmt.Sprintf("client: %s; server: %s, then %s", greeting, first, server.all())
		}, "client: 0 bytes, end; server: 1000 bytes, then 0 bytes, reset", engine.ResetByClient},
	}
}

// resetAfter lets from send 8 MiB and reset the connection, while to reads.
func resetAfter(from, to *peer) (g got) {
	during(func() string {
		defer from.reset()
		return from.send(8 << 20)
	}, func() { g = to.all() })
	return g
}
