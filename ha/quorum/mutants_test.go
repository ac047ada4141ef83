package quorum

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

// mutant is Next with one wrong order planted in it.
type mutant func(v View) Step

// adds reports whether a step records members that are not recorded yet.
func (v View) adds(s Step) bool {
	return s.Kind == WriteRecord && len(s.Record.Members) > len(v.Recorded.Members)
}

func (v View) lowers(s Step) bool { return s.Kind == WriteRecord && s.Record.K < v.Recorded.K }

// instead replaces the kind of some steps.
func instead(kind Kind, of ...Kind) mutant {
	return func(v View) Step {
		s := Next(v)
		if slices.Contains(of, s.Kind) {
			s.Kind = kind
		}
		return s
	}
}

// settingFirst puts what would be recorded in force at once.
func settingFirst(which func(View, Step) bool) mutant {
	return func(v View) Step {
		s := Next(v)
		if which(v, s) && !covers(v.Sync.Setting, s.Record) {
			s.Kind, s.Setting = WriteSetting, s.Record.Setting()
		}
		return s
	}
}

// recordFirst records what would be proven first.
func recordFirst(v View) Step {
	s := Next(v)
	if s.Kind == WriteSetting && s.Proves && !s.Record.Equal(v.Recorded) {
		s.Kind = WriteRecord
	}
	return s
}

func membersAndK(v View) Step {
	s := Next(v)
	if v.adds(s) {
		s.Record.K++
	}
	return s
}

func swapLives(v View) Step {
	s := Next(v)
	if v.adds(s) {
		s.Record.Members = slices.DeleteFunc(slices.Clone(s.Record.Members), func(m Member) bool {
			return slices.ContainsFunc(s.Record.Members, func(o Member) bool { return o.Node == m.Node && o.Incarnation > m.Incarnation })
		})
	}
	return s
}

// plainRaise believes that ANY shows its K.
func plainRaise(v View) Step {
	s := Next(v)
	if s.Kind == WriteSetting && s.Proves {
		s.Setting = s.Record.Setting()
	}
	return s
}

// oneDummy ignores what the walsenders show already.
func oneDummy(v View) Step {
	s := Next(v)
	if s.Kind == WriteSetting && IsProbe(s.Setting) {
		names := slices.DeleteFunc(slices.Clone(s.Setting.Names), isDummy)
		s.Setting.Names = append([]string{dummy}, names...)
	}
	return s
}

// earlyBarrier reads the barrier before adoption, and then waits for adoption.
func earlyBarrier(v View) Step {
	waiting := v
	waiting.Progress.Barrier = 0
	s := Next(waiting)
	switch {
	case s.Kind == AwaitAdoption && v.Progress.Barrier == 0:
		s.Kind = ReadBarrier
		return s
	case s.Kind == ReadBarrier:
		return Next(v)
	default:
		return s
	}
}

// trustsFile takes what is in force for what the configuration file says.
func trustsFile(v View) Step {
	if !v.ours() {
		v.Progress = Progress{Wrote: true, Setting: v.Sync.Setting, Sound: v.sound()}
	}
	return Next(v)
}

// unmarked mends without leaving a mark for whoever comes after a crash.
func unmarked(v View) Step {
	s := Next(v)
	if s.Kind == WriteSetting && s.Proves && s.Record.Equal(v.Recorded) {
		s.Setting, s.Proves = v.Recorded.Setting(), false
	}
	return s
}

func believesUnreported(v View) Step {
	v.Sync.Senders = slices.Clone(v.Sync.Senders)
	v.Sync.Senders = slices.DeleteFunc(v.Sync.Senders, func(w pg.Walsender) bool { return w.Flush == 0 })
	return Next(v)
}

// Every wrong order is caught by the walks that find nothing wrong with Next.
func TestWrongOrdersAreCaught(t *testing.T) {
	t.Parallel()
	once := state{toggles: 1, crashes: 1, writes: 255}
	two := func() (*universe, []state) {
		u := newUniverse(lives("a.1", "b.1", "c.1")...)
		u.acks = true
		return u, u.rest(once)
	}
	raised := func() (*universe, []state) { // k is raised to 2, then a member is lost
		u := newUniverse(lives("a.1", "b.1", "c.1", "d.1")...)
		u.acks = true
		s := u.start(config(1, u.lives[0], u.lives[1:]...))
		s.toggles, s.writes = 1, 255
		connecting := s
		connecting.null = bit(1)
		return u, []state{s, connecting}
	}
	pending := func() (*universe, []state) { // a setting was written and never reloaded
		u := newUniverse(lives("a.1", "b.1", "c.1")...)
		u.acks = true
		s := u.start(config(0, u.lives[0], u.lives[1]))
		s.file = u.settings.id(config(1, u.lives[0], u.lives[1]).Setting())
		s.gone |= bit(1)
		s.toggles, s.writes = 2, 255
		return u, []state{s}
	}
	foreign := func() (*universe, []state) {
		u := newUniverse(lives("a.1", "b.1", "c.1")...)
		u.acks = true
		s := u.start(config(1, u.lives[0], u.lives[1:]...))
		s.conf = u.settings.id(pg.SyncSetting{})
		s.file, s.dirty, s.defined = s.conf, true, false
		s.crashes, s.toggles, s.writes = 1, 1, 255
		return u, []state{s}
	}
	lives := func() (*universe, []state) { return newLife(true) }
	for _, world := range []func() (*universe, []state){two, raised, pending, foreign, lives} {
		u, starts := world()
		_, way := u.walk(starts, nil)
		requireNone(t, way)
	}
	for name, m := range map[string]struct {
		step  mutant
		world func() (*universe, []state)
	}{
		"record before barrier is passed":     {instead(WriteRecord, AwaitBarrier), two},
		"record without barrier":              {instead(WriteRecord, ReadBarrier), two},
		"barrier before adoption":             {earlyBarrier, two},
		"adoption skipped":                    {instead(ReadBarrier, AwaitAdoption), two},
		"checkpoints skipped":                 {instead(ReadBarrier, Checkpoint), two},
		"setting before record, adding":       {settingFirst(View.adds), two},
		"setting before record, lowering":     {settingFirst(View.lowers), two},
		"record before setting":               {recordFirst, two},
		"members and k in one step":           {membersAndK, two},
		"k raised by a setting without marks": {plainRaise, two},
		"probe like the one before":           {oneDummy, raised},
		"pending setting ignored":             {trustsFile, pending},
		"walsender without position believed": {believesUnreported, raised},
		"lives swapped in one write":          {swapLives, lives},
		"mending without a mark":              {unmarked, foreign},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, starts := m.world()
			u.next = m.step
			_, way := u.walk(starts, nil)
			require.NotEmpty(t, way, "not caught")
			for _, line := range way {
				t.Log(line)
			}
		})
	}
}
