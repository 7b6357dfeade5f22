package main

import "strings"

// What may stand where. Everything else is refused as nginx refuses a
// directive of a module that it was built without, so that a test of something
// that midspan has not is skipped by its own rules (`try_run`) and not half
// passed.
var (
	mainDirectives = words(`daemon env error_log events http load_module master_process pid stream user
		worker_processes worker_rlimit_nofile working_directory`)
	streamDirectives = words(`access_log allow deny error_log geo limit_conn limit_conn_dry_run limit_conn_log_level
		limit_conn_zone listen log_format map preread_buffer_size preread_timeout proxy_bind proxy_buffer_size
		proxy_connect_timeout proxy_download_rate proxy_half_close proxy_next_upstream proxy_next_upstream_timeout
		proxy_next_upstream_tries proxy_pass proxy_protocol proxy_protocol_timeout proxy_socket_keepalive proxy_ssl
		proxy_ssl_certificate proxy_ssl_certificate_key proxy_ssl_name proxy_ssl_password_file proxy_ssl_protocols
		proxy_ssl_server_name proxy_ssl_session_reuse proxy_ssl_trusted_certificate proxy_ssl_verify
		proxy_ssl_verify_depth proxy_timeout proxy_upload_rate resolver resolver_timeout return server server_name
		server_names_hash_bucket_size set set_real_ip_from split_clients ssl_alpn ssl_certificate ssl_certificate_key
		ssl_client_certificate ssl_password_file ssl_preread ssl_protocols ssl_reject_handshake ssl_session_cache
		ssl_session_tickets ssl_session_timeout ssl_trusted_certificate ssl_verify_client tcp_nodelay upstream`)
	upstreamDirectives = words(`hash least_conn random server zone`)
	// upstreamParams are those of `server` in an upstream.
	upstreamParams = words(`backup down fail_timeout max_conns max_fails resolve weight`)
	httpDirectives = words(`access_log add_header client_body_temp_path fastcgi_temp_path index listen location
		proxy_pass proxy_temp_path root scgi_temp_path server server_name ssl_certificate ssl_certificate_key
		ssl_client_certificate ssl_trusted_certificate ssl_verify_client uwsgi_temp_path`)
)

func words(list string) map[string]bool {
	all := map[string]bool{}
	for _, w := range strings.Fields(list) {
		all[w] = true
	}
	return all
}

// checkTree refuses what is not known.
func checkTree(tree []*directive) error {
	for _, d := range tree {
		if !mainDirectives[d.name] {
			return d.errorf("unknown directive %q", d.name)
		}
		var err error
		switch d.name {
		case "stream":
			err = checkBlock(d.block, streamDirectives)
		case "http":
			err = checkBlock(d.block, httpDirectives)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func checkBlock(ds []*directive, known map[string]bool) error {
	for _, d := range ds {
		if !known[d.name] {
			return d.errorf("unknown directive %q", d.name)
		}
		var err error
		switch d.name {
		case "server", "location":
			err = checkBlock(d.block, known)
		case "upstream":
			err = checkUpstream(d.block)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func checkUpstream(ds []*directive) error {
	for _, d := range ds {
		if !upstreamDirectives[d.name] {
			return d.errorf("unknown directive %q", d.name)
		}
		if d.name != "server" || len(d.args) == 0 {
			continue
		}
		for _, p := range d.args[1:] {
			if name, _, _ := strings.Cut(p, "="); !upstreamParams[name] {
				return d.errorf("invalid parameter %q", p)
			}
		}
	}
	return nil
}
