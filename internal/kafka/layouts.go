package kafka

import "strconv"

// apiName is for messages.
func apiName(key int16) string {
	switch key {
	case keyProduce:
		return "Produce"
	case keyFetch:
		return "Fetch"
	case keyMetadata:
		return "Metadata"
	case keyFindCoordinator:
		return "FindCoordinator"
	case keySaslHandshake:
		return "SaslHandshake"
	case keyApiVersions:
		return "ApiVersions"
	case keyDescribeCluster:
		return "DescribeCluster"
	case keyShareFetch:
		return "ShareFetch"
	case keyShareAcknowledge:
		return "ShareAcknowledge"
	}
	return "API " + strconv.Itoa(int(key))
}

// layout is how an answer is laid out that is looked into: a program with two marks, and what
// stands between them. All else of the frame passes as it is.
type layout struct {
	prog  []op
	part  part
	shape shape
	// leave is the walk.value at the first mark with which the frame stays as it is; 0: none.
	leave uint64
	// Of a frame of more than smallFrame: stream, it is walked while it passes, and what is from
	// the first mark on keeps its length; head, what is behind the second mark passes unread.
	stream, head bool
}

// part is what stands between the marks.
type part uint8

const (
	partNodes        part = iota // an array of nodes
	partTag                      // tagged fields, of which 0 is an array of nodes
	partCoordinator              // error, message, node
	partCoordinators             // an array of those, with keys
	partVersions                 // an array of API key, first and last version
)

// shape is what differs between nodes, coordinators and versions of one answer and another.
type shape struct {
	flexible bool // compact strings, counts, and tags: KIP-482
	rack     bool
	message  bool // FindCoordinator before version 4: an error has a text
	extra    int  // bytes between rack and tags
}

// layouts by API key and version; without a program where nothing is looked into.
var layouts = [...][]layout{
	keyProduce:          versions(13, produceLayout),
	keyFetch:            versions(18, fetchLayout),
	keyMetadata:         versions(13, metadataLayout),
	keyFindCoordinator:  versions(6, findCoordinatorLayout),
	keyApiVersions:      versions(5, apiVersionsLayout),
	keyDescribeCluster:  versions(2, describeClusterLayout),
	keyShareFetch:       versions(2, shareFetchLayout),
	keyShareAcknowledge: versions(2, shareAcknowledgeLayout),
}

// lastVersion is the last version of an API that is known here, of those that are looked into.
func lastVersion(key int16) (version int16, known bool) {
	if int(key) >= len(layouts) || len(layouts[key]) == 0 {
		return 0, false
	}
	return int16(len(layouts[key]) - 1), true
}

// layoutOf is nil where the answer passes as it is.
func layoutOf(key, version int16) *layout {
	if int(key) >= len(layouts) || int(version) >= len(layouts[key]) || layouts[key][version].prog == nil {
		return nil
	}
	return &layouts[key][version]
}

func versions(last int16, make func(version int16) layout) []layout {
	var all []layout
	for v := range last + 1 {
		all = append(all, make(v))
	}
	return all
}

// program writes programs.
type program []op

func (p *program) add(code opcode, n int) { *p = append(*p, op{code, n}) }
func (p *program) fix(n int)              { p.add(opFix, n) }
func (p *program) mark()                  { p.add(opMark, 0) }

// str is a string or bytes, in their nullable forms, which are the same but for null.
func (p *program) str(flexible bool) {
	if flexible {
		p.add(opCStr, 0)
	} else {
		p.add(opStr, 0)
	}
}

func (p *program) tags(flexible bool) {
	if flexible {
		p.add(opTags, 0)
	}
}

func (p *program) array(flexible bool, element func()) {
	at := len(*p)
	p.add(opArr, 0)
	if flexible {
		(*p)[at].code = opCArr
	}
	element()
	p.add(opEnd, at+1)
	(*p)[at].n = len(*p)
}

// head is that of an answer: version 0, or 1 with tags (KIP-482).
func (p *program) head(flexible bool) {
	p.fix(answerHead)
	p.tags(flexible)
}

func (p *program) nodes(s shape) {
	p.array(s.flexible, func() {
		p.fix(4) // id
		p.str(s.flexible)
		p.fix(4) // port
		if s.rack {
			p.str(s.flexible)
		}
		p.fix(s.extra)
		p.tags(s.flexible)
	})
}

// endpoint is a node of NodeEndpoints (KIP-951).
var endpoint = shape{flexible: true, rack: true}

func produceLayout(version int16) (l layout) {
	if version < 10 { // KIP-951
		return l
	}
	var p program
	p.head(true)
	p.array(true, func() {
		p.topic(version <= 12)
		p.array(true, func() {
			p.fix(4 + 2 + 8 + 8 + 8) // index, error, base offset, log append time, log start offset
			p.array(true, func() {   // record errors
				p.fix(4)
				p.str(true)
				p.tags(true)
			})
			p.str(true) // error message
			p.tags(true)
		})
		p.tags(true)
	})
	p.fix(4) // throttle time
	p.mark()
	p.tags(true)
	p.mark()
	return layout{prog: p, part: partTag, shape: endpoint}
}

// topic is one by its name or by its id.
func (p *program) topic(name bool) {
	if name {
		p.str(true)
	} else {
		p.fix(16)
	}
}

func fetchLayout(version int16) (l layout) {
	if version < 16 { // KIP-951
		return l
	}
	var p program
	p.head(true)
	p.fix(4 + 2 + 4) // throttle time, error, session
	p.array(true, func() {
		p.topic(false)
		p.array(true, func() {
			p.fix(4 + 2 + 8 + 8 + 8) // index, error, high watermark, last stable offset, log start offset
			p.array(true, func() {   // aborted transactions
				p.fix(8 + 8)
				p.tags(true)
			})
			p.fix(4)    // preferred read replica
			p.str(true) // records
			p.tags(true)
		})
		p.tags(true)
	})
	p.mark()
	p.tags(true)
	p.mark()
	return layout{prog: p, part: partTag, shape: endpoint, stream: true}
}

func metadataLayout(version int16) layout {
	s := shape{flexible: version >= 9, rack: version >= 1}
	var p program
	p.head(s.flexible)
	if version >= 3 {
		p.fix(4) // throttle time
	}
	p.mark()
	p.nodes(s)
	p.mark()
	return layout{prog: p, part: partNodes, shape: s, head: true}
}

func findCoordinatorLayout(version int16) layout {
	l := layout{part: partCoordinator, shape: shape{flexible: version >= 3, message: version >= 1}}
	var p program
	p.head(l.shape.flexible)
	if version >= 1 {
		p.fix(4) // throttle time
	}
	p.mark()
	if version >= 4 { // KIP-699
		l.part = partCoordinators
		p.array(true, func() {
			p.str(true) // key
			p.fix(4)    // node
			p.str(true) // host
			p.fix(4 + 2)
			p.str(true) // message
			p.tags(true)
		})
	} else {
		p.fix(2) // error
		if l.shape.message {
			p.str(l.shape.flexible)
		}
		p.fix(4) // node
		p.str(l.shape.flexible)
		p.fix(4) // port
	}
	p.mark()
	l.prog = p
	return l
}

// errUnsupportedVersion is Kafka's error code for it. An ApiVersions answer with it is in the
// layout of version 0, whatever was asked (KIP-511).
const errUnsupportedVersion = 35

func apiVersionsLayout(version int16) layout {
	s := shape{flexible: version >= 3}
	var p program
	p.head(false)     // always of version 0: the client may not know what the broker speaks
	p.add(opValue, 2) // error
	p.mark()
	p.array(s.flexible, func() {
		p.fix(2 + 2 + 2)
		p.tags(s.flexible)
	})
	p.mark()
	return layout{prog: p, part: partVersions, shape: s, leave: errUnsupportedVersion}
}

// endpointControllers is DescribeCluster's other endpoint type (KIP-919).
const endpointControllers = 2

func describeClusterLayout(version int16) layout {
	l := layout{part: partNodes, shape: endpoint}
	var p program
	p.head(true)
	p.fix(4 + 2) // throttle time, error
	p.str(true)  // message
	if version >= 1 {
		p.add(opValue, 1) // endpoint type
		l.leave = endpointControllers
	}
	p.str(true) // cluster
	p.fix(4)    // controller
	if version >= 2 {
		l.shape.extra = 1 // fenced
	}
	p.mark()
	p.nodes(l.shape)
	p.mark()
	l.prog = p
	return l
}

func shareFetchLayout(version int16) layout {
	l := shareLayout(version >= 1, func(p *program) {
		p.fix(4 + 2) // index, error
		p.str(true)
		p.fix(2) // acknowledge error
		p.str(true)
		p.fix(4 + 4) // leader, epoch
		p.tags(true)
		p.str(true)            // records
		p.array(true, func() { // acquired records
			p.fix(8 + 8 + 2)
			p.tags(true)
		})
		p.tags(true)
	})
	l.stream = true
	return l
}

func shareAcknowledgeLayout(version int16) layout {
	return shareLayout(version >= 2, func(p *program) {
		p.fix(4 + 2) // index, error
		p.str(true)
		p.fix(4 + 4) // leader, epoch
		p.tags(true)
		p.tags(true)
	})
}

// shareLayout is what the answers for share groups have in common: all but a partition's
// part, and the time that locks last, where the version has that.
func shareLayout(lock bool, partition func(*program)) layout {
	var p program
	p.head(true)
	p.fix(4 + 2) // throttle time, error
	p.str(true)  // message
	if lock {
		p.fix(4) // acquisition lock timeout
	}
	p.array(true, func() {
		p.topic(false)
		p.array(true, func() { partition(&p) })
		p.tags(true)
	})
	p.mark()
	p.nodes(endpoint)
	p.mark()
	return layout{prog: p, part: partNodes, shape: endpoint}
}

// Heads of Produce requests, up to their acks: from version 3 on with a transactional id, from 9 on flexible.
var (
	produceHead0 = []op{{opFix, requestHead}, {opStr, 0}, {opValue, 2}, {opMark, 0}}
	produceHead3 = []op{{opFix, requestHead}, {opStr, 0}, {opStr, 0}, {opValue, 2}, {opMark, 0}}
	produceHead9 = []op{{opFix, requestHead}, {opStr, 0}, {opTags, 0}, {opCStr, 0}, {opValue, 2}, {opMark, 0}}
)

func produceHead(version int16) []op {
	switch {
	case version >= 9:
		return produceHead9
	case version >= 3:
		return produceHead3
	}
	return produceHead0
}
