package admin

import (
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"midspan/internal/daemon"
	"midspan/internal/engine"
	"midspan/internal/health"
	"midspan/internal/plan"
)

// snapshot is what one scrape shows. Nothing in it is counted for the scrape's
// sake: it is read from where it is counted anyway, and the data path does not
// wait.
type snapshot struct {
	version Version
	status  daemon.Status
	plan    *plan.Plan // in force; nil before the first
	dropped uint64
	probes  map[string]uint64
}

func (s *Server) snapshot() snapshot {
	return snapshot{
		version: s.version(), status: s.o.Daemon.Status(), plan: s.o.Daemon.Plan(),
		dropped: s.logDropped(), probes: s.probes.counts(),
	}
}

// collector makes metrics of a snapshot. Their labels come from the plan, the
// names' addresses and fixed lists, never from clients.
type collector struct {
	read func() snapshot
	all  []*prometheus.Desc

	buildInfo, startTime, ready, draining, connections, limit, acceptErrors, panics, logDropped, probes,
	reloads, loaded, loadOK, pending, tracked, trackedMax, trackedDropped *prometheus.Desc

	routeInfo, routeConnections, routeAccepted, routeBytes, routeEnded, routeUp, routeListening *prometheus.Desc

	httpRequests, httpResponse *prometheus.Desc

	kafka kafkaDescs

	consumerConnections, consumerAccepted, consumerRefused, consumerBytes *prometheus.Desc

	endpointUp, endpointConnections, endpointConnects, endpointWarm, endpointPorts, endpointMaxPorts *prometheus.Desc

	checkLatency, checks, checkFailures *prometheus.Desc

	nameAddresses, nameFailing, nameSuccess *prometheus.Desc

	certificateExpiry *prometheus.Desc
}

func newCollector(read func() snapshot) *collector {
	c := &collector{read: read}
	d := func(name, help string, labels ...string) *prometheus.Desc {
		desc := prometheus.NewDesc("midspan_"+name, help, labels, nil)
		c.all = append(c.all, desc)
		return desc
	}
	c.buildInfo = d("build_info", "Which midspan this is; always 1.", "version", "goversion")
	c.startTime = d("start_time_seconds", "When the daemon started, in Unix time.")
	c.ready = d("ready", "Whether the probe answers 200, so that the load balancer sends connections here.")
	c.draining = d("draining", "Whether the daemon is on its way out.")
	c.connections = d("connections", "Live connections.")
	c.limit = d("connections_limit", "Live connections there may be, by the file or the limit of open files.")
	c.acceptErrors = d("accept_errors_total", "Connections that could not be accepted for want of file descriptors or memory.")
	c.panics = d("panics_total", "Connections ended by a defect in midspan.")
	c.logDropped = d("log_records_dropped_total", "Records of the access log that were lost because it could not be written.")
	c.probes = d("probes_total", "Probes answered, by HTTP status; tcp are those that connected and asked nothing, and so cannot see a 503.", "code")
	c.reloads = d("reloads_total", "Reloads of the file.", "result")
	c.loaded = d("config_loaded_timestamp_seconds", "When the file in force was loaded, in Unix time.")
	c.loadOK = d("config_last_reload_successful", "Whether the last reload worked; if not, the file before it is in force.")
	c.pending = d("listeners_pending", "Listeners that wait for an interface or address of this host.")

	c.tracked = d("tracking_entries", "Entries in the kernel's table of connections, which all on this machine share.")
	c.trackedMax = d("tracking_max", "Entries there may be; above it new connections are dropped. 0: no limit.")
	c.trackedDropped = d("tracking_dropped_total", "Packets of new connections that the kernel dropped, for want of room in the table or of source ports.")

	c.routeInfo = d("route_info", "Which engine carries the route; always 1.", "route", "engine")
	c.routeConnections = d("route_connections", "Live connections of the route.", "route")
	c.routeAccepted = d("route_accepted_total", "Connections accepted.", "route")
	c.routeBytes = d("route_bytes_total", "Bytes forwarded.", "route", "direction")
	c.routeEnded = d("route_ended_total", "Connections that ended, by why; rare reasons only once they have come.", "route", "reason")
	c.routeUp = d("route_up", "Whether a new connection has a server to go to.", "route")
	c.routeListening = d("route_listening", "Whether every listener of the route is open.", "route")

	c.httpRequests = d("http_requests_total", "Requests of mode http that ended, by the status that the client got; none: it got none.", "route", "code")
	c.httpResponse = d("http_response_seconds", "How long servers took from the end of a request's head to that of the answer's.", "route")

	c.kafka = newKafkaDescs(d)

	c.consumerConnections = d("consumer_connections", "Live connections of the consumer, over all routes.", "consumer")
	c.consumerAccepted = d("consumer_accepted_total", "Connections of the consumer that were let in.", "consumer")
	c.consumerRefused = d("consumer_refused_total", "Connections of the consumer on routes that are not for it, or above its limits.", "consumer")
	c.consumerBytes = d("consumer_bytes_total", "Bytes forwarded for the consumer.", "consumer", "direction")

	endpoint := []string{"route", "server", "endpoint"}
	c.endpointUp = d("endpoint_up", "Whether new connections may go to the endpoint.", endpoint...)
	c.endpointConnections = d("endpoint_connections", "Live connections to the endpoint, and attempts.", endpoint...)
	c.endpointWarm = d("endpoint_warm_connections", "Connections to the endpoint that are ready for clients to come.", endpoint...)
	c.endpointPorts = d("endpoint_source_ports", "Source ports in use for the endpoint, where the engine knows.", endpoint...)
	c.endpointMaxPorts = d("endpoint_source_ports_max", "Source ports there are for the endpoint.", endpoint...)
	c.endpointConnects = d("endpoint_connects_total", "Connects to the endpoint that ended.", append(endpoint, "result")...)
	c.checkLatency = d("check_latency_seconds", "How long the last check took that passed.", endpoint...)
	c.checks = d("checks_total", "Checks made.", endpoint...)
	c.checkFailures = d("check_failures_total", "Checks that failed.", endpoint...)

	c.certificateExpiry = d("certificate_expiry_seconds", "When the first certificate of the file's chain expires, in Unix time.", "file")

	c.nameAddresses = d("name_addresses", "Addresses in use for the name.", "name")
	c.nameFailing = d("name_failing", "Whether the last look-up of the name failed; its addresses stay in use.", "name")
	c.nameSuccess = d("name_last_success_timestamp_seconds", "When the addresses of the name were last confirmed, in Unix time.", "name")
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.all {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s, to := c.read(), sink(ch)
	c.daemon(to, s)
	waiting := map[string]bool{}
	for _, p := range s.status.Engine.Pending {
		waiting[p.Route] = true
	}
	for _, r := range s.status.Engine.Routes {
		c.route(to, r, waiting[r.Name])
	}
	for _, x := range s.status.Engine.Consumers {
		to.gauge(c.consumerConnections, float64(x.Active), x.Name)
		to.counter(c.consumerAccepted, x.Accepted, x.Name)
		to.counter(c.consumerRefused, x.Refused, x.Name)
		to.counter(c.consumerBytes, x.BytesUp, x.Name, "client_to_server")
		to.counter(c.consumerBytes, x.BytesDown, x.Name, "server_to_client")
	}
	expiry := map[string]time.Time{} // a file may serve many routes
	for _, x := range s.status.Engine.Certificates {
		expiry[x.File] = x.Expires
	}
	for file, at := range expiry {
		to.gauge(c.certificateExpiry, seconds(at), file)
	}
	c.planned(to, s)
	c.kafka.collectDiscovery(to, s.status.Clusters)
	c.kafka.collectUnreached(to, s.status.Unreached)
	for name, a := range s.status.Names {
		to.gauge(c.nameAddresses, float64(len(a.Addrs)), name)
		to.gauge(c.nameFailing, number(a.Problem != ""), name)
		if !a.Since.IsZero() {
			to.gauge(c.nameSuccess, seconds(a.Since), name)
		}
	}
}

func (c *collector) daemon(to sink, s snapshot) {
	st := &s.status
	to.gauge(c.buildInfo, 1, s.version.Version, s.version.Go)
	to.gauge(c.startTime, seconds(st.Since))
	to.gauge(c.ready, number(st.NotReady == ""))
	to.gauge(c.draining, number(st.State == daemon.Draining))
	to.gauge(c.connections, float64(st.Engine.Connections))
	to.gauge(c.limit, float64(st.Engine.MaxConnections))
	to.counter(c.acceptErrors, st.Engine.AcceptErrors)
	to.counter(c.panics, st.Engine.Panics)
	to.counter(c.logDropped, s.dropped)
	for code, n := range s.probes {
		to.counter(c.probes, n, code)
	}
	to.counter(c.reloads, uint64(st.Reloads), "success")
	to.counter(c.reloads, uint64(st.FailedLoads), "failure")
	if !st.Loaded.IsZero() {
		to.gauge(c.loaded, seconds(st.Loaded))
	}
	to.gauge(c.loadOK, number(st.FailedLoad == ""))
	to.gauge(c.pending, float64(len(st.Engine.Pending)))
	if t := st.Engine.Tracking; t != nil {
		to.gauge(c.tracked, float64(t.Entries))
		to.gauge(c.trackedMax, float64(t.Max))
		to.counter(c.trackedDropped, t.Dropped)
	}
}

// basicReasons have a series from the start, so that the first one that comes is
// an increase: they are what alerts are written on. With all, a thousand routes
// would have tens of thousands of series that are 0 for ever.
var basicReasons = []engine.Reason{
	engine.ClosedByClient, engine.ClosedByServer, engine.ResetByClient, engine.ResetByServer,
	engine.ConnectFailed, engine.NoServer, engine.ServersFull, engine.NoResources, engine.LostServer, engine.Fault,
}

// route shows a route as the engine has it; one that is gone from the file has
// its connections still.
func (c *collector) route(to sink, r engine.RouteStatus, waits bool) {
	to.gauge(c.routeConnections, float64(r.Counters.Active), r.Name)
	to.counter(c.routeAccepted, r.Counters.Accepted, r.Name)
	to.counter(c.routeBytes, r.Counters.BytesUp, r.Name, "client_to_server")
	to.counter(c.routeBytes, r.Counters.BytesDown, r.Name, "server_to_client")
	for _, reason := range engine.Reasons {
		if n := r.Counters.Ended[reason]; n > 0 || slices.Contains(basicReasons, reason) {
			to.counter(c.routeEnded, n, r.Name, string(reason))
		}
	}
	if r.HTTP != nil {
		c.requests(to, r.Name, r.HTTP)
	}
	if r.Kafka != nil {
		c.kafka.collect(to, r.Name, r.Kafka)
	}
	if r.Removed {
		return
	}
	to.gauge(c.routeListening, number(len(r.Listening) > 0 && !waits), r.Name)
	for _, e := range r.Endpoints {
		if !e.Addr.IsValid() {
			continue // a server without an address; name_addresses says so
		}
		labels := []string{r.Name, e.Server, endpointLabel(e.Addr)}
		to.gauge(c.endpointUp, number(e.Up), labels...)
		to.gauge(c.endpointConnections, float64(e.Active), labels...)
		to.gauge(c.endpointWarm, float64(e.Warm), labels...)
		if e.MaxPorts > 0 {
			to.gauge(c.endpointPorts, float64(e.Ports), labels...)
			to.gauge(c.endpointMaxPorts, float64(e.MaxPorts), labels...)
		}
		to.counter(c.endpointConnects, e.Connects, append(labels, "success")...)
		to.counter(c.endpointConnects, e.Failures, append(labels, "failure")...)
	}
}

// requests shows those of a route of mode http.
func (c *collector) requests(to sink, route string, h *engine.HTTPStatus) {
	for code, n := range h.Requests {
		to.counter(c.httpRequests, n, route, code)
	}
	upTo, total := map[float64]uint64{}, uint64(0)
	for i, n := range h.Waits {
		total += n
		if i < len(engine.HTTPWaits) {
			upTo[engine.HTTPWaits[i].Seconds()] = total
		}
	}
	to <- prometheus.MustNewConstHistogram(c.httpResponse, total, h.Waited.Seconds(), upTo, route)
}

// planned shows what the plan in force says, and the checks of its endpoints.
func (c *collector) planned(to sink, s snapshot) {
	if s.plan == nil {
		return
	}
	states := map[health.Target]health.State{}
	for _, h := range s.status.Health {
		states[h.Target] = h
	}
	for _, r := range s.plan.Routes {
		to.gauge(c.routeInfo, 1, r.Name, string(r.Engine))
		to.gauge(c.routeUp, number(r.Usable()), r.Name)
		if r.Check.Kind == plan.CheckOff {
			continue
		}
		for _, srv := range r.Servers {
			for _, e := range srv.Endpoints {
				h, known := states[checkTarget(r, srv, e.Addr)]
				if !known {
					continue
				}
				labels := []string{r.Name, srv.Name, endpointLabel(netip.AddrPortFrom(e.Addr, srv.Port))}
				to.counter(c.checks, h.Tests, labels...)
				to.counter(c.checkFailures, h.Failed, labels...)
				if h.Latency > 0 {
					to.gauge(c.checkLatency, h.Latency.Seconds(), labels...)
				}
			}
		}
	}
}

// checkTarget is what the monitor knows the test of an endpoint by. Endpoints
// share a test that is the same for both.
func checkTarget(r *plan.Route, s *plan.Server, a netip.Addr) health.Target {
	return health.TargetOf(r, s, a).Key()
}

// endpointLabel is the address of an endpoint; * is the port of the listener.
func endpointLabel(a netip.AddrPort) string {
	if a.Port() != 0 {
		return a.String()
	}
	if a.Addr().Is6() {
		return "[" + a.Addr().String() + "]:*"
	}
	return a.Addr().String() + ":*"
}

// sink is where metrics go.
type sink chan<- prometheus.Metric

func (to sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (to sink) counter(d *prometheus.Desc, n uint64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
