package kafka

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// rewritten are the APIs whose answers are looked into.
var rewritten = []int16{
	keyProduce, keyFetch, keyMetadata, keyFindCoordinator, keyApiVersions, keyDescribeCluster, keyShareFetch, keyShareAcknowledge,
}

// random fills a message with anything: every field, lists of up to three, unknown tags.
type random struct {
	*rand.Rand
	records int // how many bytes a partition's records have at most
}

func (r random) fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if tags, ok := v.Addr().Interface().(*kmsg.Tags); ok {
			r.tags(tags)
			return
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Name != "Version" {
				r.fill(v.Field(i))
			}
		}
	case reflect.Slice:
		r.list(v)
	case reflect.Array:
		for i := range v.Len() {
			r.fill(v.Index(i))
		}
	case reflect.Pointer:
		if r.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			r.fill(v.Elem())
		}
	case reflect.String:
		if r.IntN(8) > 0 {
			v.SetString(fmt.Sprintf("broker-%d.real.invalid", r.IntN(1000)))
		}
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Uint8:
		v.SetUint(uint64(r.IntN(256)))
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.IntN(128) - 8))
	default:
		panic(v.Kind())
	}
}

func (r random) list(v reflect.Value) {
	n := r.IntN(4)
	if v.Type().Elem().Kind() == reflect.Uint8 {
		if n > 0 {
			b := make([]byte, r.IntN(r.records+1))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			v.SetBytes(b)
		}
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range n {
		r.fill(v.Index(i))
	}
}

// tags are of numbers that no message defines.
func (r random) tags(t *kmsg.Tags) {
	for _, number := range [...]uint32{9, 126, 127, 128, 70000} {
		if r.IntN(6) == 0 {
			t.Set(number, make([]byte, r.IntN(200)))
		}
	}
}

// answer is a random one.
func (r random) answer(key, version int16) kmsg.Response {
	m := kmsg.ResponseForKey(key)
	r.fill(reflect.ValueOf(m).Elem())
	m.SetVersion(version)
	switch m := m.(type) {
	case *kmsg.ApiVersionsResponse:
		if m.ErrorCode == errUnsupportedVersion {
			m.ErrorCode = 0
		}
		r.apis(m)
	case *kmsg.DescribeClusterResponse:
		m.EndpointType = int8(1 + r.IntN(2))
	}
	// What the version does not have is gone, and what is null where that cannot be is not.
	return decode(key, version, m.AppendTo(nil))
}

// apis makes a list such as brokers send.
func (r random) apis(m *kmsg.ApiVersionsResponse) {
	m.ApiKeys = nil
	for range r.IntN(200) {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion = int16(r.IntN(120)-2), int16(r.IntN(20))
		k.MaxVersion = k.MinVersion + int16(r.IntN(20))
		r.tags(&k.UnknownTags)
		m.ApiKeys = append(m.ApiKeys, k)
	}
}

func decode(key, version int16, body []byte) kmsg.Response {
	m := kmsg.ResponseForKey(key)
	m.SetVersion(version)
	if err := m.ReadFrom(body); err != nil {
		panic(err)
	}
	return m
}

// frame is an answer as it is sent. header is what tags the header has, if the version has any.
func frame(m kmsg.Response, correlation int32, header ...byte) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, sizeLen), uint32(correlation))
	if m.IsFlexible() && m.Key() != keyApiVersions {
		if header == nil {
			header = []byte{0}
		}
		b = append(b, header...)
	}
	b = m.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-sizeLen))
	return b
}

// head is how many bytes of a frame stand before the message.
func headOf(m kmsg.Response) int {
	if m.IsFlexible() && m.Key() != keyApiVersions {
		return answerHead + 1
	}
	return answerHead
}

// ask is a request for an answer of that key and version.
func ask(key, version int16, correlation int32) []byte {
	m := kmsg.RequestForKey(key)
	m.SetVersion(version)
	if p, ok := m.(*kmsg.ProduceRequest); ok {
		p.Acks = -1
	}
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, m, correlation)
}

// expected is what the client should get, from what the broker sent: all endpoints gone where
// they are hidden.
func expected(m kmsg.Response, rewrite Rewrite, passUnknown bool) kmsg.Response {
	body := m.AppendTo(nil)
	m = decode(m.Key(), m.GetVersion(), body)
	switch m := m.(type) {
	case *kmsg.MetadataResponse:
		m.Brokers = nodes(m.Brokers, rewrite)
	case *kmsg.DescribeClusterResponse:
		if m.EndpointType == 1 || m.Version == 0 {
			m.Brokers = nodes(m.Brokers, rewrite)
		}
	case *kmsg.ProduceResponse:
		if m.Version >= 10 {
			m.Brokers = nodes(m.Brokers, rewrite)
		}
	case *kmsg.FetchResponse:
		if m.Version >= 16 {
			m.Brokers = nodes(m.Brokers, rewrite)
		}
	case *kmsg.ShareFetchResponse:
		m.NodeEndpoints = nodes(m.NodeEndpoints, rewrite)
	case *kmsg.ShareAcknowledgeResponse:
		m.NodeEndpoints = nodes(m.NodeEndpoints, rewrite)
	case *kmsg.FindCoordinatorResponse:
		coordinators(m, rewrite)
	case *kmsg.ApiVersionsResponse:
		apis(m, passUnknown)
	}
	return m
}

// nodes does to a list what is expected, whatever its elements are called.
func nodes[T any](list []T, rewrite Rewrite) []T {
	kept := list[:0:0]
	for _, n := range list {
		v := reflect.ValueOf(&n).Elem()
		id, host, port := v.FieldByName("NodeID"), v.FieldByName("Host"), v.FieldByName("Port")
		if id.Int() >= 0 && host.Len() > 0 {
			h, p, ok := rewrite(int32(id.Int()), host.String(), int32(port.Int()))
			if !ok {
				continue
			}
			host.SetString(h)
			port.SetInt(int64(p))
		}
		kept = append(kept, n)
	}
	return kept
}

func coordinators(m *kmsg.FindCoordinatorResponse, rewrite Rewrite) {
	for i := range m.Coordinators {
		k := &m.Coordinators[i]
		if kept := nodes(m.Coordinators[i:i+1], rewrite); len(kept) == 1 {
			*k = kept[0]
			continue
		}
		k.NodeID, k.Host, k.Port, k.ErrorCode, k.ErrorMessage = -1, "", -1, 15, nil
	}
	if kept := nodes([]kmsg.FindCoordinatorResponse{*m}, rewrite); len(kept) == 1 {
		*m = kept[0]
		return
	}
	m.NodeID, m.Host, m.Port, m.ErrorCode, m.ErrorMessage = -1, "", -1, 15, nil
}

func apis(m *kmsg.ApiVersionsResponse, passUnknown bool) {
	var kept []kmsg.ApiVersionsResponseApiKey
	for _, k := range m.ApiKeys {
		if k.ApiKey > kmsg.MaxKey && !passUnknown {
			continue
		}
		for _, key := range rewritten {
			if known := kmsg.ResponseForKey(key).MaxVersion(); k.ApiKey == key {
				k.MaxVersion = min(k.MaxVersion, known)
				if k.MinVersion > known {
					k.ApiKey = -1000
				}
			}
		}
		if k.ApiKey != -1000 {
			kept = append(kept, k)
		}
	}
	m.ApiKeys = kept
}
