package web

import "time"

type h2Side struct{}

func (*h2Side) init(*Proxy)      {}
func (*h2Side) drain()           {}
func (*h2Side) close()           {}
func (*h2Side) expire(time.Time) {}

const preface = "PRI * HTTP/2.0\r\n\r\n"

func (c *conn) serveH2() (int, Reason) { return 0, Done }
