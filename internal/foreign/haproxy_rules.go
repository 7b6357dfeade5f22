package foreign

import (
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

// none and gone make the note of a rule: for a statement that is not needed,
// and for one whose effect is missed.
func none(why string) rule { return rule{note: isNone + why} }
func gone(why string) rule { return rule{note: isGone + why} }

// What several rules say.
const (
	whyLog      = "midspan writes its log to stdout (or `log: { to: … }`), where journald collects it"
	whyHTTP     = "midspan does not read HTTP in a TCP route"
	whyNotHTTP  = "`mode: http` has nothing of the kind"
	whyProcess  = "the systemd unit decides which user, directory and limits midspan runs with"
	whyTune     = "midspan sizes buffers, pipes and threads itself"
	whyTLS      = "midspan speaks TLS 1.2 and 1.3, with Go's own choice of ciphers"
	whyStats    = "status and metrics are at `admin`"
	whyAccess   = openMark + "is not carried over; " + whereSource
	whyStick    = "midspan's only tables are of clients' addresses; `balance: source` sends a client to the same server"
	whyNext     = "midspan always tries the next server, within connect_timeout"
	whyCheckTCP = "midspan's check only connects"
	whyIdle     = "HTTP's own timeouts do not apply to a TCP route"
)

// globalRules are for the lines of `global`.
var globalRules = map[string]rule{
	"maxconn":         {do: (*haproxy).globalMaxconn, least: 1},
	"hard-stop-after": {do: (*haproxy).hardStopAfter, least: 1},
	"grace":           {do: (*haproxy).grace, least: 1},

	"log": none(whyLog), "log-tag": none(whyLog), "log-send-hostname": none(whyLog),
	"daemon": none("systemd keeps midspan running"), "master-worker": none("`midspan reload` and `midspan upgrade` keep connections"),
	"user": none(whyProcess), "group": none(whyProcess), "uid": none(whyProcess), "gid": none(whyProcess),
	"chroot": none(whyProcess), "pidfile": none(whyProcess), "ulimit-n": none(whyProcess), "fd-hard-limit": none(whyProcess),
	"strict-limits": none(whyProcess), "set-dumpable": none(whyProcess), "unix-bind": none(whyProcess),
	"stats":  none("the control socket is control.sock in /run/midspan (`control`)"),
	"nbproc": none(whyTune), "nbthread": none(whyTune), "cpu-map": none(whyTune), "cpu-policy": none(whyTune), "cpu-set": none(whyTune), "numa-cpu-mapping": none(whyTune),
	"thread-groups": none(whyTune), "thread-group": none(whyTune), "busy-polling": none(whyTune), "noepoll": none(whyTune), "nopoll": none(whyTune),
	"noreuseport": none(whyTune), "nosplice": none(whyTune), "maxpipes": none(whyTune), "no-memory-trimming": none(whyTune),
	"spread-checks": none("midspan spreads tests by itself"), "max-spread-checks": none("midspan spreads tests by itself"),
	"quiet": none("midspan prints little"), "zero-warning": none("`midspan check` shows warnings"), "debug": none("it is for debugging HAProxy"),
	"node": none("it names the machine on HAProxy's status page"), "description": none("it only describes"), "localpeer": none("there are no stick tables to share"),
	"ca-base": {do: (*haproxy).setBase, least: 1}, "crt-base": {do: (*haproxy).setBase, least: 1}, "issuers-chain-path": none(whyTLS), "maxsslconn": none(whyTLS), "maxsslrate": none(whyTLS),
	"lua-load": gone("midspan runs no scripts"), "lua-load-per-thread": gone("midspan runs no scripts"), "lua-prepend-path": none("midspan runs no scripts"),
	"ssl-server-verify": {do: (*haproxy).setVerify, least: 1}, "ssl-default-bind-options": {do: (*haproxy).setBindOptions, least: 1},
	"maxconnrate": gone("write `rate` for each route, or in `defaults`"), "maxsessrate": gone("write `rate` for each route, or in `defaults`"),
	"external-check": gone("midspan runs no programs"), "insecure-fork-wanted": none("midspan runs no programs"), "insecure-setuid-wanted": none("midspan runs no programs"),
	"server-state-base": none("midspan keeps its state over a reload and an upgrade"), "server-state-file": none("midspan keeps its state over a reload and an upgrade"),
	"setenv": gone("the importer does not know environment variables"), "presetenv": gone("the importer does not know environment variables"),
	"unsetenv": none("it only clears the environment"), "resetenv": none("it only clears the environment"),
}

// globalPrefixes are families of global keywords.
var globalPrefixes = []struct {
	prefix string
	rule   rule
}{
	{"tune.", none(whyTune)},
	{"profiling.", none("it is for debugging HAProxy")},
	{"ssl-", none(whyTLS)},
	{"h1-", none(whyHTTP)},
	{"h2-", none(whyHTTP)},
	{"httpclient.", none(whyHTTP)},
	{"deviceatlas-", none(whyHTTP)},
	{"wurfl-", none(whyHTTP)},
	{"51degrees-", none(whyHTTP)},
	{"mworker-", none("`midspan reload` and `midspan upgrade` keep connections")},
}

// globalRule is the rule for s, a line of `global`.
func globalRule(s *stmt) (rule, bool) {
	if r, ok := globalRules[s.arg(0)]; ok {
		return r, true
	}
	for _, p := range globalPrefixes {
		if strings.HasPrefix(s.arg(0), p.prefix) {
			return p.rule, true
		}
	}
	return rule{}, false
}

// proxyRule is the rule for s, a line of p: by its first two words, or by the
// first.
func proxyRule(p *proxy, s *stmt) (rule, bool) {
	if s.arg(0) == "tcp-request" {
		return tcpRequest(p.sec, s), true
	}
	tables := []map[string]rule{proxyRules}
	if p.mode.V == modeHTTP {
		tables = []map[string]rule{httpRules, proxyRules}
	}
	for _, t := range tables {
		for _, name := range []string{s.arg(0) + " " + s.arg(1), s.arg(0)} {
			if r, ok := t[name]; ok {
				return r, true
			}
		}
	}
	return rule{}, false
}

// tcpRequest is the rule for `tcp-request LEVEL ACTION …`. Those that are
// carried over are read when the route is made.
func tcpRequest(sec *section, s *stmt) rule {
	switch action := s.arg(2); {
	case s.arg(1) == "inspect-delay":
		return rule{do: (*haproxy).setInspect, least: 2, side: frontSide}
	case sec.kind == "backend" && slices.Contains(refusals, action):
		return rule{note: whyAccess}
	case sec.kind == "backend" && action == "accept":
		return none("nothing is refused after it")
	case action == "accept" || action == "expect-proxy" || slices.Contains(refusals, action) || strings.HasPrefix(action, "track-"):
		return rule{do: func(_ *haproxy, p *proxy, s *stmt) { p.tcp = append(p.tcp, s) }, side: frontSide}
	}
	return gone("midspan has no rules for single connections")
}

// proxyRules are for the lines of defaults, listen, frontend and backend.
var proxyRules = map[string]rule{
	"bind":                     {do: (*haproxy).bindLine, least: 1, side: frontSide},
	"server":                   {do: (*haproxy).serverLine, least: 2, side: backSide},
	"server-template":          {do: (*haproxy).serverTemplate, least: 3, side: backSide},
	"default-server":           {do: (*haproxy).defaultServer, side: backSide},
	"mode":                     {do: (*haproxy).setMode, least: 1},
	"balance":                  {do: (*haproxy).setBalance, least: 1, side: backSide},
	"maxconn":                  {do: (*haproxy).setMaxconn, least: 1, side: frontSide},
	"default_backend":          {do: (*haproxy).setBackend, least: 1, side: frontSide},
	"use_backend":              {do: (*haproxy).useBackend, least: 1, side: frontSide},
	"disabled":                 {do: func(_ *haproxy, p *proxy, s *stmt) { p.disabled = config.At(true, s.pos) }},
	"enabled":                  {do: func(_ *haproxy, p *proxy, _ *stmt) { p.disabled = config.Field[bool]{} }},
	"option tcplog":            {do: (*haproxy).setLog, side: frontSide},
	"option httplog":           {do: (*haproxy).setLog, side: frontSide},
	"option httpslog":          {do: (*haproxy).setLog, side: frontSide},
	"option httpchk":           {do: (*haproxy).httpchk, side: backSide},
	"http-check send":          {do: (*haproxy).httpCheckSend, side: backSide},
	"http-check expect":        {do: (*haproxy).httpCheckExpect, least: 2, side: backSide},
	"option tcp-check":         {do: checkBy(checkRaw), side: backSide},
	"tcp-check":                {do: (*haproxy).tcpCheck, least: 1, side: backSide},
	"option tcpka":             {do: keepaliveIsOn},
	"option clitcpka":          {do: keepaliveIsOn, side: frontSide},
	"option srvtcpka":          {do: keepaliveIsOn, side: backSide},
	"clitcpka-idle":            {do: keepaliveTime(func(k *config.Keepalive) *config.Field[time.Duration] { return &k.Idle }), least: 1, side: frontSide},
	"clitcpka-intvl":           {do: keepaliveTime(func(k *config.Keepalive) *config.Field[time.Duration] { return &k.Interval }), least: 1, side: frontSide},
	"clitcpka-cnt":             {do: (*haproxy).keepaliveCount, least: 1, side: frontSide},
	"srvtcpka-idle":            {do: keepaliveTime(func(k *config.Keepalive) *config.Field[time.Duration] { return &k.Idle }), least: 1, side: backSide},
	"srvtcpka-intvl":           {do: keepaliveTime(func(k *config.Keepalive) *config.Field[time.Duration] { return &k.Interval }), least: 1, side: backSide},
	"srvtcpka-cnt":             {do: (*haproxy).keepaliveCount, least: 1, side: backSide},
	"timeout client":           {do: timeout(func(t *timeouts) *config.Field[time.Duration] { return &t.client }), least: 2, side: frontSide},
	"timeout client-fin":       {do: timeout(func(t *timeouts) *config.Field[time.Duration] { return &t.clientFin }), least: 2, side: frontSide},
	"timeout connect":          {do: (*haproxy).timeoutConnect, least: 2, side: backSide},
	"timeout server":           {do: timeout(func(t *timeouts) *config.Field[time.Duration] { return &t.server }), least: 2, side: backSide},
	"timeout server-fin":       {do: timeout(func(t *timeouts) *config.Field[time.Duration] { return &t.serverFin }), least: 2, side: backSide},
	"timeout tunnel":           {do: timeout(func(t *timeouts) *config.Field[time.Duration] { return &t.tunnel }), least: 2, side: backSide},
	"timeout check":            {do: timeout(func(t *timeouts) *config.Field[time.Duration] { return &t.check }), least: 2, side: backSide},
	"timeout queue":            {note: "has no counterpart: connections over the limit of a route wait in the listen queue, over that of a server for connect_timeout"},
	"timeout tarpit":           none("midspan keeps no client waiting on purpose"),
	"timeout client-hs":        none(whyTLS),
	"retries":                  none(whyNext),
	"option redispatch":        none(whyNext),
	"retry-on":                 none(whyNext),
	"log":                      none(whyLog),
	"log-tag":                  none(whyLog),
	"log-format":               gone("the log's format is json or tcplog"),
	"log-format-sd":            gone("the log's format is json or tcplog"),
	"error-log-format":         gone("the log's format is json or tcplog"),
	"option dontlognull":       none("the load balancer's probes are counted and not logged"),
	"option logasap":           none("the json log has a record when a connection starts"),
	"no option":                {do: (*haproxy).noOption, least: 2},
	"no log":                   gone("midspan's log is for all routes; `log: off` switches it off"),
	"hash-type":                none("`balance: source` always hashes consistently"),
	"hash-balance-factor":      gone("midspan does not bound the load of a hashed server"),
	"fullconn":                 gone("a server's limit does not depend on the load of the route"),
	"backlog":                  none("midspan asks for the longest listen queue that the kernel allows"),
	"description":              none("it only describes"),
	"id":                       none("it only numbers"),
	"guid":                     none("it only names"),
	"bind-process":             none(whyTune),
	"acl":                      {do: (*haproxy).setACL, least: 2},
	"tcp-response":             gone("midspan does not look into the bytes it forwards"),
	"http-request":             gone(whyHTTP),
	"http-request allow":       {note: whyAccess},
	"http-request auth":        {note: whyAccess},
	"http-request deny":        {note: whyAccess},
	"http-request reject":      {note: whyAccess},
	"http-request silent-drop": {note: whyAccess},
	"http-request tarpit":      {note: whyAccess},
	"stick":                    {do: (*haproxy).setStick, least: 2, side: backSide},
	"stick-table":              {do: (*haproxy).setTable, least: 2},
	"rate-limit sessions":      {do: (*haproxy).setRate, least: 2, side: frontSide},
	"source":                   {do: (*haproxy).setSource, least: 1, side: backSide},
	"dispatch":                 gone("write the address as a `server`, then import again"),
	"transparent":              gone("midspan goes to the servers of the route only"),
	"use-server":               {do: (*haproxy).useServer, least: 1, side: backSide},
	"persist":                  gone(whyStick),
	"force-persist":            gone(whyStick),
	"ignore-persist":           gone(whyStick),
	"cookie":                   gone(whyHTTP + ", so it cannot tell the server by a cookie"),
	"http-check":               gone("the check is one GET"),
	"external-check":           gone("midspan runs no programs; " + whyCheckTCP),
	"monitor-uri":              none("the load balancer's probe is answered by `health`"),
	"monitor-net":              none("the load balancer's probe is answered by `health`"),
	"monitor":                  none("the load balancer's probe is answered by `health`, 503 when no route has a server that is up"),
	"stats":                    none(whyStats),
	"email-alert":              none("let alerts come from the metrics"),
	"filter":                   gone("midspan does not look into the bytes it forwards"),
	"grace":                    none("`drain: { detection: … }` sets how long the probe fails before listeners close"),
	"unique-id-format":         none("every connection has an id of its own"),
	"unique-id-header":         gone(whyHTTP),

	"load-server-state-from-file": none("midspan keeps its state over a reload and an upgrade"),
	"server-state-file-name":      none("midspan keeps its state over a reload and an upgrade"),

	"option ssl-hello-chk":      {do: checkBy(checkTLS), side: backSide},
	"option mysql-check":        {do: checkBy("mysql"), side: backSide},
	"option pgsql-check":        {do: checkBy("postgres"), side: backSide},
	"option redis-check":        {do: checkBy("redis"), side: backSide},
	"option smtpchk":            {do: (*haproxy).smtpCheck, side: backSide},
	"option ldap-check":         gone(whyCheckTCP),
	"option spop-check":         gone(whyCheckTCP),
	"option external-check":     gone("midspan runs no programs; " + whyCheckTCP),
	"option allbackups":         {do: func(_ *haproxy, p *proxy, s *stmt) { p.allBackups = config.At(true, s.pos) }, side: backSide},
	"option forwardfor":         gone(whyHTTP + ", so servers see midspan's address as the client's"),
	"option originalto":         gone(whyHTTP),
	"option transparent":        gone("midspan goes to the servers of the route only"),
	"option nolinger":           gone("midspan ends a connection as its sides end it"),
	"option abortonclose":       none("midspan gives up a connect when the client has gone"),
	"option splice-auto":        none("midspan splices streams that keep moving"),
	"option splice-request":     none("midspan splices streams that keep moving"),
	"option splice-response":    none("midspan splices streams that keep moving"),
	"option log-health-checks":  none("midspan logs servers that go up or down"),
	"option persist":            gone(whyStick),
	"option prefer-last-server": gone(whyStick),
	"option socket-stats":       none("midspan counts by route and by server"),
	"option contstats":          none("midspan counts while connections live"),
	"option dontlog-normal":     gone("midspan logs every connection"),
	"option tcp-smart-accept":   none("it saves a packet of HTTP clients"),
	"option tcp-smart-connect":  none("it saves a packet to HTTP servers"),

	"timeout http-request":    none(whyIdle),
	"timeout http-keep-alive": none(whyIdle),

	"option accept-invalid-http-request":              none(whyHTTP),
	"option accept-invalid-http-response":             none(whyHTTP),
	"option accept-unsafe-violations-in-http-request": none(whyHTTP),
	"option checkcache":                               none(whyHTTP),
	"option disable-h2-upgrade":                       none(whyHTTP),
	"option forceclose":                               none(whyHTTP),
	"option h1-case-adjust-bogus-client":              none(whyHTTP),
	"option h1-case-adjust-bogus-server":              none(whyHTTP),
	"option http-buffer-request":                      none(whyHTTP),
	"option http-ignore-probes":                       none(whyHTTP),
	"option http-keep-alive":                          none(whyHTTP),
	"option http-no-delay":                            none(whyHTTP),
	"option http-pretend-keepalive":                   none(whyHTTP),
	"option http-restrict-req-hdr-names":              none(whyHTTP),
	"option http-server-close":                        none(whyHTTP),
	"option http-use-htx":                             none(whyHTTP),
	"option http-use-proxy-header":                    none(whyHTTP),
	"option httpclose":                                none(whyHTTP),
	"option idle-close-on-response":                   none(whyHTTP),
	"option independent-streams":                      none("an idle connection is one on which nothing moves in either direction"),
	"option log-separate-errors":                      none("the log has the reason why each connection ended"),

	"capture":               gone(whyHTTP),
	"compression":           gone(whyHTTP),
	"declare":               gone(whyHTTP),
	"errorfile":             none("midspan does not write HTTP answers"),
	"errorfiles":            none("midspan does not write HTTP answers"),
	"errorloc":              none("midspan does not write HTTP answers"),
	"errorloc302":           none("midspan does not write HTTP answers"),
	"errorloc303":           none("midspan does not write HTTP answers"),
	"http-error":            none("midspan does not write HTTP answers"),
	"http-after-response":   gone(whyHTTP),
	"http-response":         gone(whyHTTP),
	"http-reuse":            none("each client connection has its own connection to a server"),
	"http-send-name-header": gone(whyHTTP),
	"max-keep-alive-queue":  none(whyIdle),
	"redirect":              gone(whyHTTP),
	"use-fcgi-app":          gone("midspan does not speak FastCGI"),
}

// collect keeps a line until the route is made.
func collect(_ *haproxy, p *proxy, s *stmt) { p.http = append(p.http, s) }

// keepsAlive is why options about connections are not needed.
const keepsAlive = "midspan keeps connections to clients and servers between requests by itself"

// httpRules are for lines of sections in mode http; what they have not is in
// proxyRules.
var httpRules = map[string]rule{
	"http-request":                  {do: collect, least: 1},
	"http-request allow":            {do: collect},
	"http-request auth":             {do: collect},
	"http-request deny":             {do: collect},
	"http-request reject":           {do: collect},
	"http-request silent-drop":      {do: collect},
	"http-request tarpit":           {do: collect},
	"http-response":                 {do: collect, least: 1},
	"redirect":                      {do: collect, least: 1},
	"http-after-response":           gone("midspan's own answers are short and have no headers to change"),
	"cookie":                        {do: (*haproxy).setCookie, least: 1, side: backSide},
	"option forwardfor":             {do: (*haproxy).setForwardfor},
	"option httplog":                none("the json log has a record for each request, and `log: tcplog` a line in HAProxy's HTTP format"),
	"option httpslog":               none("the json log has a record for each request"),
	"timeout http-request":          {do: timeout(func(t *timeouts) *config.Field[time.Duration] { return &t.request }), least: 2, side: frontSide},
	"timeout http-keep-alive":       {do: timeout(func(t *timeouts) *config.Field[time.Duration] { return &t.keepAlive }), least: 2, side: frontSide},
	"http-reuse":                    none(keepsAlive),
	"max-keep-alive-queue":          none(keepsAlive),
	"option http-keep-alive":        none(keepsAlive),
	"option http-server-close":      none(keepsAlive),
	"option httpclose":              none(keepsAlive),
	"option forceclose":             none(keepsAlive),
	"option http-pretend-keepalive": none(keepsAlive),
	"option prefer-last-server":     none(keepsAlive),
	"compression":                   gone("midspan changes no bodies; let the servers compress"),
	"capture":                       gone("the log has method, host, path and status of each request"),
	"errorfile":                     gone("midspan's own answers are short and plain"),
	"errorfiles":                    gone("midspan's own answers are short and plain"),
	"errorloc":                      gone("midspan's own answers are short and plain"),
	"errorloc302":                   gone("midspan's own answers are short and plain"),
	"errorloc303":                   gone("midspan's own answers are short and plain"),
	"http-error":                    gone("midspan's own answers are short and plain"),
}
