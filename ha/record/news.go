package record

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pghad/pghad/dcs"
)

// Standing is the record without what changes all the time: positions, and when they
// were sampled.
func (m Member) Standing() Member {
	m.XlogLSN, m.Received, m.Replayed, m.Sampled = 0, 0, 0, time.Time{}
	return m
}

// Standing is the record without what changes all the time: positions and lags.
func (s Status) Standing() Status {
	s.Flushed = 0
	s.Nodes = maps.Clone(s.Nodes)
	for host, opinion := range s.Nodes {
		opinion.Lag = 0
		s.Nodes[host] = opinion
	}
	return s
}

// Standing is the record without what changes all the time: positions, and when they
// were sampled.
func (r ReplicsInfo) Standing() ReplicsInfo {
	r.Sampled = time.Time{}
	r.Senders = slices.Clone(r.Senders)
	for i := range r.Senders {
		r.Senders[i].Flush, r.Senders[i].Replay = 0, 0
	}
	return r
}

// News are keys of the cluster with a text for each that changes when there is news:
// whenever the key is written, but not if only positions have changed.
func (k Keys) News(kvs []dcs.KV) map[string]string {
	news := make(map[string]string, len(kvs))
	for _, kv := range kvs {
		standing := ""
		switch {
		case kv.Key == k.Status():
			standing = standingOf[Status](kv)
		case kv.Key == k.ReplicsInfo():
			standing = standingOf[ReplicsInfo](kv)
		case strings.HasPrefix(kv.Key, k.Member("")):
			standing = standingOf[Member](kv)
		}
		if standing == "" {
			standing = strconv.FormatUint(uint64(kv.Revision), 10)
		}
		news[kv.Key] = strconv.FormatUint(uint64(kv.Created), 10) + " " + string(kv.Session) + " " + standing
	}
	return news
}

// standingOf is the text of a record without what changes all the time, "" if it cannot
// be read.
func standingOf[T interface{ Standing() T }](kv dcs.KV) string {
	value, err := Decode[T](kv.Key, kv.Value)
	if err != nil {
		return ""
	}
	return string(Encode(value.Standing()))
}
