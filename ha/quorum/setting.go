package quorum

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pghad/pghad/pg"
)

// dummy is the name that stands in front of a Probe. "!" occurs in no node's
// name and there is no incarnation, so that no member can be called so.
const dummy = "pghad!adoption"

func isDummy(name string) bool { return strings.HasPrefix(strings.ToLower(name), dummy) }

// Safe reports whether every commit that a primary recorded in c acknowledges
// under setting s has c.W() copies inside c.D().
func Safe(c Config, s pg.SyncSetting) bool {
	if c.K == 0 {
		return true
	}
	if s.Empty() {
		return false
	}
	outside := 0
	for _, name := range s.Names {
		switch {
		case name == "*":
			return false // anybody may be counted
		case isDummy(name):
		case !hasMember(c.Members, name):
			outside++
		}
	}
	return s.K-outside >= c.K
}

func hasMember(members []Member, name string) bool {
	return slices.ContainsFunc(members, func(m Member) bool { return strings.EqualFold(m.String(), name) })
}

// covers reports whether s lists exactly the members of c, beside dummies, and
// waits for exactly c.K of them.
func covers(s pg.SyncSetting, c Config) bool {
	if s.Empty() || c.K == 0 {
		return s.Empty() && c.K == 0
	}
	listed := slices.DeleteFunc(slices.Clone(s.Names), isDummy)
	return s.K == c.K && len(listed) == len(c.Members) &&
		!slices.ContainsFunc(listed, func(name string) bool { return !hasMember(c.Members, name) })
}

// IsProbe reports whether s was made by Probe: the server waits by it for the
// time of a change, and it is a mark of one that is not finished.
func IsProbe(s pg.SyncSetting) bool {
	return s.Method == pg.SyncFirst && !s.Empty() && isDummy(s.Names[0])
}

// Probe is a setting that waits for c.K of c's members and that walsenders show
// when they have re-read: FIRST K, the members behind so many names that nobody
// has that each walsender in view must show another priority than it shows now
// and than the setting in force gives it. c.K must be at least 1.
//
// FIRST waits for the foremost connected ones, hence those that have flushed
// most come first.
func Probe(c Config, view pg.SyncView) pg.SyncSetting {
	members := slices.Clone(c.Members)
	slices.SortStableFunc(members, func(a, b Member) int {
		return cmp.Or(-cmp.Compare(flushed(view, a), flushed(view, b)), a.Compare(b))
	})
	for dummies := 1; ; dummies++ {
		s := pg.SyncSetting{Method: pg.SyncFirst, K: c.K}
		for i := range dummies {
			name := dummy
			if i > 0 {
				name = fmt.Sprintf("%s%d", dummy, i+1)
			}
			s.Names = append(s.Names, name)
		}
		for _, m := range members {
			s.Names = append(s.Names, m.String())
		}
		if visible(view, s) {
			return s
		}
	}
}

func flushed(view pg.SyncView, m Member) pg.LSN {
	if s, ok := sender(view, m); ok && s.State == "streaming" {
		return s.Flush
	}
	return 0
}

// visible reports whether each walsender that s lists will show another
// priority when it has re-read s, whichever setting up to the one in force it
// has read so far.
func visible(view pg.SyncView, s pg.SyncSetting) bool {
	return !slices.ContainsFunc(view.Senders, func(w pg.Walsender) bool {
		next := priority(s, w.Name)
		return next != 0 && (next == w.Priority || next == priority(view.Setting, w.Name))
	})
}

// priority is the sync_priority that PostgreSQL gives a walsender under s: 0 if
// it is not listed, 1 under ANY, its place under FIRST.
func priority(s pg.SyncSetting, name string) int {
	if s.Empty() {
		return 0
	}
	at := slices.IndexFunc(s.Names, func(n string) bool { return n == "*" || strings.EqualFold(n, name) })
	switch {
	case at < 0:
		return 0
	case s.Method == pg.SyncAny:
		return 1
	default:
		return at + 1
	}
}

// Adopted reports whether the view proves that every walsender runs by setting
// to, or by one that makes no difference, after from had been in force; and if
// not, what is missing. It can be proven only where to is visible: ANY 2 after
// ANY 1 of the same names never is.
//
// Adoption by backends is another matter: where from was empty they wait only
// when two CHECKPOINTs have returned since.
func Adopted(view pg.SyncView, from, to pg.SyncSetting) (bool, []string) {
	if !view.Setting.Equal(to) {
		return false, []string{fmt.Sprintf("a new session shows '%s'", view.Setting)}
	}
	var missing []string
	for _, w := range view.Senders {
		was, want := priority(from, w.Name), priority(to, w.Name)
		switch {
		case was == 0 && want == 0 && w.Priority == 0:
			// Never listed: it can neither count nor release anybody.
		case w.State == "backup":
			// A backup acknowledges nothing.
		case w.Flush == 0:
			missing = append(missing, fmt.Sprintf("walsender %d of %s has not yet reported a position", w.PID, w.Name))
		case w.Priority != want:
			missing = append(missing, fmt.Sprintf("walsender %d of %s shows priority %d, not %d", w.PID, w.Name, w.Priority, want))
		case want != 0 && want == was && from.K < to.K:
			missing = append(missing, fmt.Sprintf("walsender %d of %s shows priority %d under the setting before, too", w.PID, w.Name, want))
		}
	}
	return len(missing) == 0, missing
}

// Passed reports whether c.K members of c have flushed lsn, as the walsenders
// of the primary report it, and otherwise which members have not. With the
// primary's own copy these are the c.W() copies that the record claims. The
// position is to be read on the primary, after what it shall cover.
func Passed(view pg.SyncView, c Config, lsn pg.LSN) (bool, []string) {
	var missing []string
	for _, m := range c.Members {
		found := senders(view, m)
		switch {
		case len(found) == 0:
			missing = append(missing, fmt.Sprintf("%s has no walsender", m))
		case len(found) > 1:
			missing = append(missing, fmt.Sprintf("%s has %d walsenders, none counts", m, len(found)))
		case found[0].Flush == 0 || found[0].Flush < lsn:
			missing = append(missing, fmt.Sprintf("%s has flushed %s of %s", m, found[0].Flush, lsn))
		}
	}
	if len(c.Members)-len(missing) >= c.K {
		return true, nil
	}
	return false, missing
}
