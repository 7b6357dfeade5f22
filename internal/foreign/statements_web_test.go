package foreign

// webCases are lines of a frontend in mode http; backend c is the one that
// rules choose.
func webCases() map[string]cases {
	const (
		hosts   = "    hosts:\n"
		request = "      request_headers:\n"
	)
	return map[string]cases{
		"web": {inWeb, []statement{
			{"use_backend c if { hdr(host) -i App.example.com }", "", hosts + "      app.example.com: 10.0.0.2:80\n"},
			{"use_backend c if { req.hdr(Host),lower,field(1,:) app.example.com }", "`use_backend c if { req.hdr(Host),lower,field(1,:) app.example.com }` is not carried over: midspan cannot tell", ""},
			{"use_backend c if { req.hdr(Host),field(1,:) app.example.com }", "", hosts + "      app.example.com: 10.0.0.2:80\n"},
			{"use_backend c if { hdr_end(host) -i .example.com }", "", hosts + "      '*.example.com': 10.0.0.2:80\n"},
			{"use_backend c if { hdr_dom(host) -i example.com }", "`use_backend c if { hdr_dom(host) -i example.com }`: `example.com` stands for the name and all names below it", hosts + "      example.com: 10.0.0.2:80\n      '*.example.com': 10.0.0.2:80\n"},
			{"use_backend c if { hdr_beg(host) -i www. }", "`use_backend c if { hdr_beg(host) -i www. }` is not carried over: midspan chooses by a whole name or by its end", ""},
			{"use_backend c if { path_beg /a /b/ }", "", hosts + "      '*':\n        /a: 10.0.0.2:80\n        /b/: 10.0.0.2:80\n"},
			{"use_backend c if { path -m beg /a }", "", hosts + "      '*':\n        /a: 10.0.0.2:80\n"},
			{"use_backend c if { path /a }", "`use_backend c if { path /a }`: paths that go on after `/a` are among them", hosts + "      '*':\n        /a: 10.0.0.2:80\n"},
			{"use_backend c if { path -i -m beg /a }", "`use_backend c if { path -i -m beg /a }`: paths are compared with regard to case", ""},
			{"use_backend c if { path / }", "`use_backend c if { path / }` is not carried over: midspan chooses by the beginning of a path", ""},
			{"use_backend c if { path_end .png }", "`use_backend c if { path_end .png }` is not carried over: midspan chooses by the beginning", ""},
			{"use_backend c if { path_reg ^/a }", "`use_backend c if { path_reg ^/a }` is not carried over: midspan chooses by the beginning", ""},
			{"use_backend c if { hdr(host) a.b } { path_beg /x }", "", hosts + "      a.b:\n        /x: 10.0.0.2:80\n"},
			{"use_backend c if { hdr(host) a.b } { hdr(host) c.d }", "`use_backend c if { hdr(host) a.b } { hdr(host) c.d }` is not carried over: midspan chooses by one name and one path", ""},
			{"use_backend c if { hdr(host) a.b } !{ ssl_fc }", "", hosts + "      a.b: 10.0.0.2:80\n"},
			{"use_backend c if { hdr(host) a.b } { ssl_fc }", "", "    to: 10.0.0.1:5001\n    http:\n"},
			{"use_backend c if { req.ssl_sni a.b }", "`use_backend c if { req.ssl_sni a.b }` is not carried over: the server name is read where TLS is not decrypted", ""},
			{"use_backend c if { path_beg /a }\nuse_backend b if { hdr(host) x.y } { path_beg /a/b }\nuse_backend b if { hdr(host) x.y }", "", hosts + "      '*':\n        /a: 10.0.0.2:80\n      x.y:\n        /a: 10.0.0.2:80\n        /: 10.0.0.1:5001\n"},
			{"use_backend c if TRUE", "", hosts + "      '*': 10.0.0.2:80\n"},
			{"use_backend c if FALSE", "", "    to: 10.0.0.1:5001\n    http:\n"},
			{"use_backend c if { path_beg /a }\nhttp-request replace-path /a/(.*) /\\1 if { path_beg /a }", "", hosts + "      '*':\n        /a: 10.0.0.2:80\n        /a/:\n          to: 10.0.0.2:80\n          rewrite: /\n"},
			{"use_backend c if { path_beg /a/ }\nhttp-request set-path %[path,regsub(^/a/,/b/)]", "", "        /a/:\n          to: 10.0.0.2:80\n          rewrite: /b/\n"},
			{"http-request replace-path ^/a.*$ /b", "`http-request replace-path ^/a.*$ /b` is not carried over: midspan replaces the beginning of a path", ""},
			{"http-request set-header X-A b", "", request + "        set:\n          X-A: b\n"},
			{"http-request set-header X-A \"b c\"\nhttp-request set-header x-a d", "", request + "        set:\n          x-a: d\n"},
			{"http-request add-header X-A b", "`http-request add-header X-A b`: what was there of that name goes", "          X-A: b\n"},
			{"http-request del-header X-A", "", request + "        remove: X-A\n"},
			{"http-request del-header Connection", "`http-request del-header Connection` is not carried over: the header frames the message", ""},
			{"http-request set-header Host a.example.com", "", "      host: a.example.com\n"},
			{"http-request set-header Host %[src]", "`http-request set-header Host %[src]` is not carried over: midspan sets Host to a name", ""},
			{"http-request set-header X-Forwarded-For %[src]", "", "      forwarded: replace\n"},
			{"option forwardfor", "", "      forwarded: append\n"},
			{"option forwardfor\nhttp-request set-header X-Forwarded-Host %[req.hdr(host)]", "", "      forwarded: append\n"},
			{"http-request set-header X-Forwarded-Host %[req.hdr(host)]\noption forwardfor", "`http-request set-header X-Forwarded-Host %[req.hdr(host)]` is not carried over: with `forwarded: append`", ""},
			{"http-request set-header X-Forwarded-Proto http if !{ ssl_fc }", "", "          X-Forwarded-Proto: http\n"},
			{"http-request set-header X-Forwarded-Proto https if { ssl_fc }", "", "      forwarded: off\n"},
			{"option forwardfor\nhttp-request set-header X-Forwarded-Proto https if { ssl_fc }", "", "      forwarded: append\n      request_headers:\n        set:\n          X-Forwarded-Proto: http\n"},
			{"http-request set-header X-Forwarded-Proto https if { ssl_fc }\noption forwardfor", "`http-request set-header X-Forwarded-Proto https if { ssl_fc }`: where clients speak no TLS midspan says http", "          X-Forwarded-Proto: http\n"},
			{"http-request set-header X-A b if { path_beg /x }", "`http-request set-header X-A b if { path_beg /x }` is not carried over: midspan changes headers of every request", ""},
			{"http-request set-var(txn.x) src", "`http-request set-var(txn.x) src` is not carried over: `mode: http` has nothing of the kind", ""},
			{"http-request deny unless { src 10.0.0.0/8 }", "`http-request deny unless { src 10.0.0.0/8 }` is carried over as `allow`", "    allow: 10.0.0.0/8\n"},
			{"http-request allow if { src 10.0.0.0/8 }\nhttp-request deny", "", "    allow: 10.0.0.0/8\n"},
			{"http-request deny if { path_beg /x }", "every source may connect: `http-request deny if { path_beg /x }` is not carried over", ""},
			{"http-request auth unless { http_auth(x) }", "every source may connect: `http-request auth unless { http_auth(x) }` is not carried over", ""},
			{"http-response set-header X-A b", "", "      response_headers:\n        set:\n          X-A: b\n"},
			{"http-response del-header Server", "", "      response_headers:\n        remove: Server\n"},
			{"redirect scheme https if { ssl_fc }", "", ""},
			{"http-request redirect location /x", "`http-request redirect location /x` is not carried over: a route forwards", ""},
			{"timeout http-request 5s", "", "      header_timeout: 5s\n      keepalive_timeout: 5s\n"},
			{"timeout http-keep-alive 9s", "", "      keepalive_timeout: 9s\n"},
			{"http-reuse always", "`http-reuse always` has no counterpart and needs none: midspan keeps connections", ""},
			{"compression algo gzip", "`compression algo gzip` is not carried over: midspan changes no bodies", ""},
			{"option httplog", "`option httplog` has no counterpart and needs none: the json log", ""},
			{"option http-use-htx", "`option http-use-htx` has no counterpart and needs none: `mode: http` has nothing", ""},
		}},
	}
}
