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
	whyProcess  = "the systemd unit decides which user, directory and limits midspan runs with"
	whyTune     = "midspan sizes buffers, pipes and threads itself"
	whyTLS      = "midspan does not decrypt, TLS goes through to the server"
	whyStats    = "status and metrics are at `admin`"
	whyAccess   = openMark + "is not carried over; " + whereSource
	whyStick    = "midspan keeps no stick tables; `balance: source` sends a client to the same server"
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
	"ca-base": none(whyTLS), "crt-base": none(whyTLS), "issuers-chain-path": none(whyTLS), "maxsslconn": none(whyTLS), "maxsslrate": none(whyTLS),
	"lua-load": gone("midspan runs no scripts"), "lua-load-per-thread": gone("midspan runs no scripts"), "lua-prepend-path": none("midspan runs no scripts"),
	"maxconnrate": gone("midspan does not limit the rate of new connections"), "maxsessrate": gone("midspan does not limit the rate of new connections"),
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

// proxyRule is the rule for s, a line of sec: by its first two words, or by
// the first.
func proxyRule(sec *section, s *stmt) (rule, bool) {
	if s.arg(0) == "tcp-request" {
		return tcpRequest(sec, s), true
	}
	if r, ok := proxyRules[s.arg(0)+" "+s.arg(1)]; ok {
		return r, true
	}
	r, ok := proxyRules[s.arg(0)]
	return r, ok
}

// tcpRequest is the rule for `tcp-request LEVEL ACTION …`.
func tcpRequest(sec *section, s *stmt) rule {
	refuses := func(s *stmt) bool {
		return s.arg(0) == "tcp-request" && (s.arg(2) == "reject" || s.arg(2) == "silent-drop")
	}
	switch action := s.arg(2); {
	case s.arg(1) == "inspect-delay":
		return none("midspan does not wait for bytes of the client")
	case refuses(s):
		return rule{note: whyAccess}
	case action == "accept" && slices.ContainsFunc(sec.body, refuses):
		return rule{note: whyAccess}
	case action == "accept":
		return none("nothing is refused after it, and midspan does not wait for bytes of the client")
	case action == "expect-proxy":
		return rule{note: whyPROXYIn}
	case strings.HasPrefix(action, "track-"):
		return gone(whyStick)
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
	"option tcp-check":         {do: func(_ *haproxy, p *proxy, _ *stmt) { p.check = httpCheck{} }, side: backSide},
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
	"acl":                      none("conditions are not evaluated; each line that uses it is named by itself"),
	"tcp-response":             gone("midspan does not look into the bytes it forwards"),
	"http-request":             gone(whyHTTP),
	"http-request allow":       {note: whyAccess},
	"http-request auth":        {note: whyAccess},
	"http-request deny":        {note: whyAccess},
	"http-request reject":      {note: whyAccess},
	"http-request silent-drop": {note: whyAccess},
	"http-request tarpit":      {note: whyAccess},
	"stick":                    gone(whyStick),
	"stick-table":              gone(whyStick),
	"rate-limit":               gone("midspan does not limit the rate of new connections"),
	"source":                   gone("midspan connects from the address that the kernel picks"),
	"dispatch":                 gone("write the address as a `server`, then import again"),
	"transparent":              gone("midspan goes to the servers of the route only"),
	"use-server":               gone("conditions are not evaluated; connections go to any server of the route"),
	"persist":                  gone(whyStick),
	"force-persist":            gone(whyStick),
	"ignore-persist":           gone(whyStick),
	"cookie":                   gone(whyHTTP + ", so it cannot tell the server by a cookie"),
	"tcp-check":                gone(whyCheckTCP),
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

	"option ssl-hello-chk":      gone(whyCheckTCP),
	"option mysql-check":        gone(whyCheckTCP + "; MySQL counts that as a connect error, see max_connect_errors"),
	"option pgsql-check":        gone(whyCheckTCP),
	"option redis-check":        gone(whyCheckTCP),
	"option smtpchk":            gone(whyCheckTCP),
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
