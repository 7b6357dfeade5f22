package relay

// handOff gives p to a goroutine: for routes that terminate or originate TLS, and
// for mode http.
func (l *loop) handOff(p *pair) { l.refuse(p, noResources, "this engine has no sessions yet") }
