package web

import (
	"io"

	"golang.org/x/sys/unix"
)

// busyReads is after how many full reads in a row a stream is spliced for a
// while.
const busyReads = 4

// smallSize is the size of the buffer that a stream waits with which is not plain
// TCP, and so cannot be waited for without one.
const smallSize = 4 << 10

// pump copies until the end of src. While src is quiet it holds no buffer, or a
// small one. An error is a legError, with ofServer for that of src.
func pump(dst, src *leg, count *int64) error {
	p := pumper{src: src}
	p.try = p.tryRead
	for {
		if p.full >= busyReads && dst.tcp != nil && src.tcp != nil {
			n, ofSource, err := splice(dst, src, spliceStep)
			*count += n
			if p.full = 0; err == io.EOF {
				return nil
			} else if err != nil {
				return &legError{err, ofSource}
			}
			continue
		}
		data, err := p.read()
		n := len(data)
		if n > 0 {
			err = dst.sendAll(data)
		}
		p.give()
		switch {
		case n > 0 && err != nil:
			return &legError{err, false}
		case n > 0:
			*count += int64(n)
		case err == nil || err == io.EOF:
			return nil
		default:
			return &legError{err, true}
		}
	}
}

// pumper reads from src.
type pumper struct {
	src   *leg
	big   *[bulkSize]byte // from bulk, or nil
	small []byte          // its own, where src is not plain TCP
	full  int             // reads in a row that got much

	try func(uintptr) bool // tryRead, made once
	n   int                // what it has read into big
	err error
}

func (p *pumper) give() {
	if p.big != nil {
		bulk.Put(p.big)
		p.big = nil
	}
}

func (p *pumper) read() ([]byte, error) {
	if p.src.tcp != nil {
		if err := p.src.raw.Read(p.try); err != nil {
			return nil, err
		}
		p.note(p.n, bulkSize)
		p.src.moved(int64(p.n), 0)
		return p.big[:p.n], p.err
	}
	buf := p.small
	if p.full > 0 {
		p.big = bulk.Get().(*[bulkSize]byte)
		buf = p.big[:]
	} else if buf == nil {
		p.small = make([]byte, smallSize)
		buf = p.small
	}
	n, err := p.src.Read(buf)
	p.note(n, smallSize)
	return buf[:n], err
}

func (p *pumper) note(n, much int) {
	if p.full++; n < much {
		p.full = 0
	}
}

func (p *pumper) tryRead(fd uintptr) bool {
	p.big = bulk.Get().(*[bulkSize]byte)
	n, errno := readNow(fd, p.big[:])
	if errno == unix.EAGAIN {
		p.give()
		return false
	}
	p.n, p.err = max(0, n), readError(n, errno)
	return true
}
