package ha_test

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
)

// unknownOutcomes are the cases in which a write of a Locker may have been
// carried out, or not, or is later.
func unknownOutcomes() []lockCase {
	const (
		takenMeaning    = "a lock is taken and nobody knows, or somebody relies on a lock that was not taken."
		releasedMeaning = "a release whose reply was lost frees a later holder's lock, or is never carried out."
	)
	cases := make([]lockCase, 0, 16)
	for _, tc := range []struct {
		name   string
		times  int
		what   fault
		solved bool // by the acquisition itself
	}{
		{"Landed", 1, fault{fail: true}, true},
		{"NotLanded", 1, fault{fail: true, lost: true}, true},
		{"LandedTwice", 2, fault{fail: true}, true},
		{"ReplyLost", 1, fault{mute: true}, true},
		{"RequestLost", 1, fault{lost: true}, true},
		{"LandsDuringTheRepetition", 1, fault{fail: true, late: 100 * time.Millisecond}, true},
		{"NeverSolvedLanded", 3, fault{fail: true}, false},
		{"NeverSolvedNotLanded", 3, fault{fail: true, lost: true}, false},
		{"NeverSolvedLandsLate", 3, fault{fail: true, late: 3 * time.Second}, false},
	} {
		cases = append(cases, lockCase{"UnknownAcquire" + tc.name, takenMeaning, func(b *lockBench) {
			unknownAcquire(b, tc.times, tc.what, tc.solved)
		}})
	}
	for _, tc := range []struct {
		name  string
		times int
		what  fault
	}{
		{"Landed", 1, fault{fail: true}},
		{"NotLanded", 1, fault{fail: true, lost: true}},
		{"LandsLate", 1, fault{fail: true, late: 3 * time.Second}},
		{"NeverSolvedNotLanded", 3, fault{fail: true, lost: true}},
		{"NeverSolvedLandsLate", 3, fault{fail: true, late: 3 * time.Second}},
	} {
		cases = append(cases, lockCase{"UnknownRelease" + tc.name, releasedMeaning, func(b *lockBench) {
			unknownRelease(b, tc.times, tc.what)
		}})
	}
	return cases
}

func unknownAcquire(b *lockBench, times int, what fault, solved bool) {
	t := b.t
	a, f := b.node(patient)
	other, _ := b.node(patient)
	taking := func(c storeCall) bool { return c.takes(b.key) }
	f.setRule(first(times, taking, what))
	lease, err := a.TryAcquire(b.ctx, b.key, []byte("a"))
	if !solved {
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		next := b.acquire(other, "b")
		b.renewed(next, 3) // whatever lands yet
		b.shows(next)
		return
	}
	require.NoError(t, err)
	b.shows(lease)
	require.Equal(t, lease.Token(), b.refused(other).Holder.Created)
	b.renewed(lease, 2)
	b.shows(lease)
	require.NoError(t, b.write(lease))
	require.NoError(t, lease.Release(b.ctx))
	next := b.acquire(other, "b")
	b.renewed(next, 2)
	b.shows(next)
}

// unknownRelease takes the lock again under the same session, where the lost
// release is at its most dangerous.
func unknownRelease(b *lockBench, times int, what fault) {
	t := b.t
	l, f := b.node(patient)
	kept, err := l.Acquire(b.ctx, b.key+"-kept", nil)
	require.NoError(t, err)
	old := b.acquire(l, "a")
	f.setRule(first(times, func(c storeCall) bool { return c.deletes(b.key) }, what))
	err = old.Release(b.ctx)
	if times >= 3 {
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
	} else {
		require.NoError(t, err)
	}
	require.Error(t, old.Check())
	again := b.acquire(l, "a")
	require.Equal(t, kept.Session(), again.Session())
	require.Greater(t, again.Token(), old.Token())
	require.NoError(t, old.Release(b.ctx), "once more, late")
	b.fenced(old)
	b.renewed(again, 3)
	b.shows(again)
	require.NoError(t, b.write(again))
	require.NoError(t, kept.Check())
}
