package kafka

import "encoding/binary"

// responses is the state of that direction.
type responses struct {
	passing bool    // the answer to the front of the queue is passing, or has passed
	out     *[]byte // what the last call gave, if it was not the input
	err     error
}

func (c *Conn) responses(in []byte) (Step, error) {
	if c.resp.passing {
		c.resp.passing = false
		c.answered()
	}
	at := 0
	for at < len(in) {
		size, need, err := c.answer(in[at:])
		switch {
		case err != nil || need > 0:
			return Step{Take: at, Send: in[:at], Need: need}, err
		case size > len(in)-at:
			c.resp.passing = true
			return Step{Take: at, Send: in[:at], Pass: int64(size)}, nil
		}
		at += size
		c.answered()
	}
	return Step{Take: at, Send: in[:at]}, nil
}

// answered takes the front from the queue.
func (c *Conn) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue.len() > 0 {
		c.queue.pop()
	}
}

// answer looks at the begin of one.
func (c *Conn) answer(b []byte) (size, need int, err error) {
	if len(b) < sizeLen {
		return 0, sizeLen, nil
	}
	n := int32(binary.BigEndian.Uint32(b))
	if n < 0 || n > maxFrame {
		return 0, 0, badAnswerSize(b[:sizeLen], n)
	}
	return sizeLen + int(n), 0, nil
}
