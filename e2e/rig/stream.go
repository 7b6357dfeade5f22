package rig

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// Sum is a SHA-256.
type Sum [sha256.Size]byte

// chunk is how much is written at once, about what a database does.
const chunk = 128 << 10

// Send writes n bytes that no other seed gives and returns their sum.
func Send(w io.Writer, seed uint64, n int64) (Sum, error) {
	source := newSource(seed)
	hash := sha256.New()
	buf := make([]byte, chunk)
	for n > 0 {
		b := buf[:min(n, chunk)]
		clear(b)
		source.XORKeyStream(b, b)
		hash.Write(b)
		if _, err := w.Write(b); err != nil {
			return Sum{}, err
		}
		n -= int64(len(b))
	}
	return Sum(hash.Sum(nil)), nil
}

// Bytes are the first n bytes of what Send writes.
func Bytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	newSource(seed).XORKeyStream(b, b)
	return b
}

func newSource(seed uint64) cipher.Stream {
	var key, iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(key[:], seed)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has the right size
	}
	return cipher.NewCTR(block, iv[:])
}

// Receive reads n bytes and returns their sum. An early end is an error that
// says how many came.
func Receive(r io.Reader, n int64) (Sum, error) {
	hash := sha256.New()
	got, err := io.CopyBuffer(hash, onlyReader{io.LimitReader(r, n)}, make([]byte, chunk))
	if err == nil && got < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return Sum{}, fmt.Errorf("after %d of %d bytes: %w", got, n, err)
	}
	return Sum(hash.Sum(nil)), nil
}

// onlyReader hides what would let io.Copy find another way, such as splice,
// which holds pipes.
type onlyReader struct{ io.Reader }

// Exchange sends n bytes on an echoing connection and checks what comes back.
func Exchange(c io.ReadWriter, seed uint64, n int) error {
	out := Bytes(seed, n)
	if _, err := c.Write(out); err != nil {
		return err
	}
	in := make([]byte, n)
	if _, err := io.ReadFull(c, in); err != nil {
		return err
	}
	if !bytes.Equal(in, out) {
		return fmt.Errorf("%d bytes came back changed", n)
	}
	return nil
}
