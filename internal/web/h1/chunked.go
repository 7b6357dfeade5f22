package h1

// Chunks follows a chunked body (RFC 9112, section 7.1) through the bytes as
// they come, without keeping any of them. The zero value is at the beginning.
type Chunks struct {
	state  chunkState
	rest   uint64 // data bytes left in the chunk
	digits int    // of the size
	line   int    // bytes of the extension, or of all trailers
	name   [20]byte
	length int // of the trailer's name; beyond name's size it is none that is known
}

type chunkState uint8

const (
	inSize   chunkState = iota
	inSpace             // behind the size: bad white space before an extension
	inExtend            // extension
	sizeLF
	inData
	dataCR
	dataLF
	lineStart // a trailer, or the end
	inName
	inValue
	valueLF
	endLF
	ended
)

// Next looks at the bytes that follow those of the last call. The first n of
// them are one piece: of the content, where data is set, else of the framing
// around it. It returns 0 only where b is empty, the body has ended, or err is
// set: then the bytes at b[0] are not to be passed on.
func (c *Chunks) Next(b []byte) (n int, data bool, err error) {
	if c.state == inData {
		n = int(min(uint64(len(b)), c.rest))
		c.Skip(uint64(n))
		return n, true, nil
	}
	for n < len(b) && c.state != inData && c.state != ended {
		if err := c.step(b[n]); err != nil {
			return n, false, err
		}
		n++
	}
	return n, false, nil
}

// Done tells whether the body is complete, with its trailers.
func (c *Chunks) Done() bool { return c.state == ended }

// Rest is how many bytes of data are known to follow.
func (c *Chunks) Rest() uint64 {
	if c.state != inData {
		return 0
	}
	return c.rest
}

// Skip tells that n bytes of data, at most Rest, went by in another way.
func (c *Chunks) Skip(n uint64) {
	if c.rest -= n; c.rest == 0 && c.state == inData {
		c.state = dataCR
	}
}

// step takes one byte of framing.
func (c *Chunks) step(b byte) error {
	switch c.state {
	case inSize:
		return c.size(b)
	case inSpace, inExtend:
		return c.extension(b)
	case sizeLF:
		c.digits, c.line = 0, 0
		if c.rest == 0 {
			return c.want(b, '\n', lineStart)
		}
		return c.want(b, '\n', inData)
	case dataCR:
		return c.want(b, '\r', dataLF)
	case dataLF:
		return c.want(b, '\n', inSize)
	case endLF:
		return c.want(b, '\n', ended)
	}
	return c.trailer(b)
}

func (c *Chunks) want(b, wanted byte, next chunkState) error {
	if b != wanted {
		return ErrChunk
	}
	c.state = next
	return nil
}

func (c *Chunks) size(b byte) error {
	d, hex := digit(b)
	switch {
	case hex:
		// Leading zeros count too: there is no use for them.
		if c.digits++; c.digits > maxHexDigits {
			return ErrChunkSize
		}
		c.rest = c.rest<<4 | d
		return nil
	case c.digits == 0:
		return ErrChunk
	}
	c.state = inSpace
	return c.extension(b)
}

func digit(b byte) (uint64, bool) {
	switch {
	case '0' <= b && b <= '9':
		return uint64(b - '0'), true
	case 'a' <= b && b <= 'f':
		return uint64(b-'a') + 10, true
	case 'A' <= b && b <= 'F':
		return uint64(b-'A') + 10, true
	}
	return 0, false
}

// extension takes what follows a size. Its text is nobody's business, but it is
// no place to hide a line's end in.
func (c *Chunks) extension(b byte) error {
	switch {
	case b == '\r':
		c.state = sizeLF
		return nil
	case !isValue[b]:
		return ErrChunk
	case c.state == inExtend, b == ' ', b == '\t':
	case b == ';':
		c.state = inExtend
	default:
		return ErrChunk
	}
	if c.line++; c.line > maxExtension {
		return ErrExtension
	}
	return nil
}

// trailer takes a byte of the trailer section, which is field lines and then an
// empty one.
func (c *Chunks) trailer(b byte) error {
	if c.line++; c.line > maxTrailers {
		return ErrTrailerSize
	}
	switch {
	case c.state == lineStart && b == '\r':
		c.state = endLF
	case c.state == lineStart && isToken[b]:
		c.state, c.length = inName, 0
		c.keep(b)
	case c.state == inName && isToken[b]:
		c.keep(b)
	case c.state == inName && b == ':':
		c.state = inValue
		return c.checkName()
	case c.state == inValue && isValue[b]:
	case c.state == inValue && b == '\r':
		c.state = valueLF
	case c.state == valueLF && b == '\n':
		c.state = lineStart
	default:
		return ErrTrailer
	}
	return nil
}

func (c *Chunks) keep(b byte) {
	if c.length < len(c.name) {
		c.name[c.length] = b
	}
	c.length++
}

// checkName refuses trailers that a server might take for fields of the head, and
// that say where a message ends, whom it is for, or who sends it (RFC 9110, section
// 6.5.1).
func (c *Chunks) checkName() error {
	if c.length > len(c.name) {
		return nil
	}
	switch KindOf(c.name[:c.length]) {
	case Host, Connection, KeepAlive, ProxyConnection, TransferEncoding, TE, ContentLength, Expect, Upgrade, Settings,
		Forwarded, XFor, XProto, XHost, Cookie, Credentials:
		return ErrTrailerFields
	}
	return nil
}
