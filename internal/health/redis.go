package health

import "strings"

// redisAlive begin errors of a server that wants a password, or whose unnamed
// user may not do this: it works, for those who may.
var redisAlive = []string{"-NOAUTH ", "-NOPERM ", "-WRONGPASS ", "-ERR operation not permitted"}

// askRedis sends PING (RESP, the Redis serialization protocol). A server that
// loads its data, has lost its primary, is full, or cannot save says so in place
// of PONG; it is up, but cannot be used.
func askRedis(k *talk) error {
	if err := k.say([]byte("*1\r\n$4\r\nPING\r\n")); err != nil {
		return err
	}
	line, err := k.text(512)
	if err != nil {
		return err
	}
	if line == "+PONG" {
		return nil
	}
	for _, alive := range redisAlive {
		if strings.HasPrefix(line, alive) {
			return nil
		}
	}
	if code, text, found := strings.Cut(strings.TrimPrefix(line, "-"), " "); found && line[0] == '-' {
		return says(text, printable(code))
	}
	return unexpected(`"+PONG"`, []byte(line))
}
