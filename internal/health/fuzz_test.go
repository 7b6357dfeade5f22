package health

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"midspan/internal/plan"
)

// fuzz holds conversations with a server that says any bytes: none may panic, or
// say more than it must, and what is made of the bytes must not depend on the
// pieces that they come in.
func fuzz(f *testing.F, ask func(*talk) error, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
		f.Add([]byte(s[:len(s)/2]))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		whole := &oneSided{in: bytes.NewReader(data)}
		k := newTalk(whole)
		err := ask(k)
		if k.in.n > maxAnswer || whole.out.Len() > 4<<10 {
			t.Errorf("%d bytes read, %d said", k.in.n, whole.out.Len())
		}
		pieces := &oneSided{in: iotest.OneByteReader(bytes.NewReader(data))}
		again := ask(newTalk(pieces))
		if fmt.Sprint(err) != fmt.Sprint(again) || whole.out.String() != pieces.out.String() {
			t.Errorf("in one piece: %v, byte by byte: %v; said %q and %q", err, again, whole.out.String(), pieces.out.String())
		}
		if err != nil && (strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 1000) {
			t.Errorf("not one short line: %q", err)
		}
	})
}

func FuzzRedis(f *testing.F) {
	fuzz(f, askRedis, "+PONG\r\n", "-LOADING Redis is loading the dataset in memory\r\n", "-NOAUTH Authentication required.\r\n", "\n", "-\x00 \n")
}

func FuzzKafka(f *testing.F) {
	fuzz(f, askKafka, wholeAnswers()[plan.CheckKafka], kafkaAnswer(kafkaMark, 35, "\x00\x00\x00\x01\x00\x12\x00\x00\x00\x03"), kafkaAnswer(kafkaMark, 1, ""))
}

func FuzzTDS(f *testing.F) {
	fuzz(f, askTDS, wholeAnswers()[plan.CheckTDS], "\x04\x01\x00\x0b\x00\x00\x01\x00\xaa\x00\x00")
}

func FuzzMySQL(f *testing.F) {
	fuzz(f, askMySQL, wholeAnswers()[plan.CheckMySQL], mysqlHello+mysqlBytes(2, "\xfeclient_ed25519\x00nonce")+mysqlBytes(4, mysqlDenied),
		mysqlBytes(0, mysqlErrBytes(1040, "Too many connections")), mysqlHello+asksOn(9), mysqlHello+mysqlBytes(2, "\x00\x00\x00\x02\x00\x00\x00"))
}

func FuzzPostgres(f *testing.F) {
	fuzz(f, func(k *talk) error {
		if answer, err := askPostgresSSL(&oneSided{in: k}); err != nil || answer != pgPlain {
			return err
		}
		return askPostgresLogin(k)
	}, "N"+wholeAnswers()[plan.CheckPostgres], "N"+pgErrorBytes("57P03", "the database system is starting up"), "S",
		"Ecould not fork new process for connection\n\x00", "N"+pgBytes('R', "\x00\x00\x00\x00")+pgBytes('Z', "I"))
}

func FuzzHTTP(f *testing.F) {
	fuzz(f, func(k *talk) error {
		return askHTTP(k, Target{Addr: tested.Addr, Check: plan.Check{Kind: plan.CheckHTTP, Path: "/", Expect: "ready"}})
	}, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nre\r\n3\r\nady\r\n0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.0 503 No\r\n\r\n", "HTTP/1.1 200 OK\r\n X: folded\r\n\r\n")
}

func FuzzExpect(f *testing.F) {
	fuzz(f, func(k *talk) error {
		return askExpect(k, plan.Check{Kind: plan.CheckExpect, Send: "PING\r\n", Expect: "+PONG"})
	}, "+PONG\r\n", "++PO+PONG", "-ERR")
}
