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

// lastVersion is the last version of an API that is known here, of those that are looked into.
func lastVersion(key int16) (version int16, known bool) {
	switch key {
	case keyProduce:
		return 13, true
	case keyFetch:
		return 18, true
	case keyMetadata:
		return 13, true
	case keyFindCoordinator:
		return 6, true
	case keyApiVersions:
		return 5, true
	case keyDescribeCluster, keyShareFetch, keyShareAcknowledge:
		return 2, true
	}
	return 0, false
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
