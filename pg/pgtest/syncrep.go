package pgtest

import (
	"slices"
	"strings"

	"github.com/pghad/pghad/pg"
)

// Level is synchronous_commit of a session.
type Level string

const (
	LevelLocal       Level = "local"
	LevelRemoteWrite Level = "remote_write"
	LevelOn          Level = "on" // the standby has flushed it; the default
	LevelRemoteApply Level = "remote_apply"
)

// syncRep is the shared memory of synchronous replication, as in syncrep.c.
type syncRep struct {
	// defined says whether commits wait at all. Only the checkpointer changes it.
	defined bool
	// Up to where commits have been released, by what they wait for.
	write, flush, apply pg.LSN
}

// releasedFor is up to where commits of a session's level have been released.
func (s *syncRep) releasedFor(session *Session) pg.LSN {
	switch session.level {
	case LevelRemoteWrite:
		return s.write
	case LevelRemoteApply:
		if !session.p.s.c.without(RuleApplyIsReplay) {
			return s.apply
		}
	case LevelLocal, LevelOn:
	}
	return s.flush
}

// define is SyncRepUpdateSyncStandbysDefined: emptying the setting releases
// everybody who waits, as a success (P7).
func (s *syncRep) define(p *process, defined bool) {
	if s.defined && !defined && p.s.c.without(RuleEmptySettingReleases) {
		return
	}
	if s.defined && !defined {
		for _, session := range p.sessions {
			session.released = session.released || session.waits()
		}
	}
	s.defined = defined
}

// candidates are the walsenders that count at all, by the priorities that each
// of them has given itself. Under FIRST only the best num of them count.
func (s *syncRep) candidates(p *process, setting pg.SyncSetting) []*sender {
	if setting.Empty() {
		return nil
	}
	var found []*sender
	for _, w := range p.senders {
		if w.counts() && w.rated() > 0 && w.flushKnown {
			found = append(found, w)
		}
	}
	if p.s.c.without(RuleNamesCountTwice) {
		found = firstOfName(found)
	}
	if setting.Method == pg.SyncFirst && len(found) > setting.K && !p.s.c.without(RuleFirstCountsTheFirst) {
		slices.SortStableFunc(found, func(a, b *sender) int { return a.rated() - b.rated() })
		found = found[:setting.K]
	}
	return found
}

func firstOfName(senders []*sender) []*sender {
	var found []*sender
	for _, w := range senders {
		if !slices.ContainsFunc(found, func(o *sender) bool { return strings.EqualFold(o.name, w.name) }) {
			found = append(found, w)
		}
	}
	return found
}

// release is SyncRepReleaseWaiters: the walsender that has got a reply releases
// what its own copy of the setting allows (P8).
func (s *syncRep) release(w *sender) {
	p := w.p
	if w.rated() == 0 || !w.counts() {
		return
	}
	setting := w.sync
	if p.s.c.without(RuleOwnCopy) {
		setting = p.postmaster.read.Sync
	}
	counted := s.candidates(p, setting)
	if setting.Empty() || !slices.Contains(counted, w) || len(counted) < setting.K {
		return
	}
	position := func(of func(*sender) pg.LSN) pg.LSN {
		all := make([]pg.LSN, len(counted))
		for i, c := range counted {
			all[i] = of(c)
		}
		slices.Sort(all)
		if setting.Method == pg.SyncFirst && !p.s.c.without(RuleFirstCountsTheFirst) {
			return all[0]
		}
		return all[len(all)-setting.K]
	}
	s.write = max(s.write, position(func(c *sender) pg.LSN { return c.write }))
	s.flush = max(s.flush, position(func(c *sender) pg.LSN { return c.flush }))
	s.apply = max(s.apply, position(func(c *sender) pg.LSN { return c.apply }))
	for _, session := range p.sessions {
		if session.waits() && session.record.End <= s.releasedFor(session) {
			session.released = true
			session.commit.Released = append(session.commit.Released, w.name)
		}
	}
}

// show is pg_stat_replication as a session sees it that has read setting.
func (s *syncRep) show(p *process, setting pg.SyncSetting) []pg.Walsender {
	counted := s.candidates(p, setting)
	var rows []pg.Walsender
	for _, w := range p.senders {
		row := pg.Walsender{PID: w.pid, Name: w.name, State: w.state.String(), Sync: "async"}
		if w.flushKnown {
			row.Flush, row.Replay, row.Priority = w.flush, w.apply, w.rated()
		}
		switch {
		case row.Priority == 0:
		case !slices.Contains(counted, w):
			row.Sync = "potential"
		case setting.Method == pg.SyncFirst:
			row.Sync = "sync"
		default:
			row.Sync = "quorum"
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b pg.Walsender) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return a.PID - b.PID
	})
	return rows
}
