package load

import "time"

// Spec says what the client does.
type Spec struct {
	Addr      string // IPv4 address and port
	Conns     int    // at a time
	Steps     []Step // of a session, in this order
	Reconnect bool   // a session has a connection of its own, else one lasts for all
	Warmup    time.Duration
	Window    time.Duration // what is counted, after the warm-up
	Sessions  int           // if > 0: a connection ends after so many; there is no window
	Check     bool          // messages carry digests, and are checked
	Hold      bool          // see Hold
	TLS       string        // the server name to ask for in TLS; "": no TLS. Not with Check, Hold or Proxy
	Kafka     bool          // requests are Kafka's: steps are those of ProduceKafka and FetchKafka. Not with Check
	Proxy     bool          // each connection begins with a PROXY header; only with Reconnect
}

// Step is a request and the answer to it, in bytes. A request has at least 24;
// checked ones 32 more, or none. See Endless.
type Step struct{ Send, Receive int64 }

// Report is what happened within the window.
type Report struct {
	Seconds   float64
	Sessions  int64 // ended
	Exchanges int64 // requests answered
	BytesUp   int64
	BytesDown int64
	P50       float64 // µs: of a session where it has a connection of its own, else of an exchange
	P99       float64
	P999      float64
	Errors    int64
	Error     string // the first one
}
