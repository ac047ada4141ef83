package quorum

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/pghad/pghad/pg"
)

// universe is the fixed part of a small world: whose lives there are, and the
// rules of the walk. States refer to settings, records and progress by number.
type universe struct {
	lives  []Member // lives[0] begins as the primary
	dead   uint8    // lives that will never come back: a newer one has replaced them
	strict bool
	acks   bool // model WAL positions; otherwise everything is flushed everywhere
	levels uint8
	next   func(View) Step

	settings table[pg.SyncSetting]
	records  table[Config]
	progress table[Progress]
	unsafe   map[[2]uint16]bool
}

// table numbers values by their text.
type table[T any] struct {
	values []T
	ids    map[string]uint16
	text   func(T) string
}

func (t *table[T]) id(v T) uint16 {
	key := t.text(v)
	id, known := t.ids[key]
	if !known {
		id = uint16(len(t.values))
		t.values = append(t.values, v)
		t.ids[key] = id
	}
	return id
}

func newUniverse(lives ...Member) *universe {
	return &universe{
		lives: lives, levels: 3, next: Next, unsafe: map[[2]uint16]bool{},
		settings: table[pg.SyncSetting]{ids: map[string]uint16{}, text: pg.SyncSetting.String},
		records:  table[Config]{ids: map[string]uint16{}, text: func(c Config) string { return string(c.Mode) + c.String() }},
		progress: table[Progress]{ids: map[string]uint16{}, text: func(p Progress) string { return fmt.Sprint(p) }},
	}
}

const maxLives = 6

// state is one instant of a small world: comparable, so that it is visited once.
type state struct {
	rec        uint16 // as in the DCS
	file, conf uint16 // the setting in the configuration file, and as the postmaster has read it
	prog       uint16
	copies     [maxLives]uint16 // each walsender's own copy of the setting
	primary    uint8
	up         uint8 // walsenders that are connected
	null       uint8 // of these: have not yet reported a position
	gone       uint8 // lives without their lock, for longer than the delay
	defined    bool  // the checkpointer has published that backends must wait
	dirty      bool  // an unsafe setting was in force: nothing holds until the tracker claims so
	pos        [maxLives]uint8
	acked      uint8
	crashes    uint8 // that are left
	toggles    uint8
	failovers  uint8
	writes     uint8
}

func bit(i int) uint8 { return 1 << i }

func (u *universe) index(name string) int {
	return slices.IndexFunc(u.lives, func(m Member) bool { return m.String() == name })
}

// start is the world that has been at rest under a record.
func (u *universe) start(c Config) state {
	s := state{rec: u.records.id(c), defined: c.K > 0, primary: uint8(u.index(c.Primary.String()))}
	s.conf = u.settings.id(c.Setting())
	s.file = s.conf
	s.prog = u.progress.id(Progress{})
	for i := range u.lives {
		s.copies[i], s.pos[i] = s.conf, 1
		if u.dead&bit(i) == 0 {
			s.up |= bit(i)
		} else {
			s.gone |= bit(i)
		}
	}
	s.up &^= bit(int(s.primary))
	s.acked = 1
	return s
}

func (u *universe) lsn(level uint8) pg.LSN { return pg.LSN(level) * 0x100 }

// view is what the tracker sees.
func (u *universe) view(s state) View {
	v := View{Recorded: u.records.values[s.rec], Strict: u.strict, Progress: u.progress.values[s.prog]}
	v.Sync = pg.SyncView{Setting: u.settings.values[s.conf], Flush: u.lsn(s.pos[s.primary])}
	for i, m := range u.lives {
		if i == int(s.primary) {
			continue
		}
		if s.gone&bit(i) == 0 {
			v.Candidates = append(v.Candidates, Candidate{Member: m})
		} else if slices.Contains(v.Recorded.Members, m) && u.dead&bit(i) == 0 {
			v.Lost = append(v.Lost, m)
		}
		if s.up&bit(i) == 0 {
			continue
		}
		w := pg.Walsender{PID: 100 + i, Name: m.String(), State: "streaming"}
		if s.null&bit(i) == 0 {
			w.Flush, w.Priority = u.lsn(s.pos[i]), priority(u.settings.values[s.copies[i]], w.Name)
		}
		v.Sync.Senders = append(v.Sync.Senders, w)
	}
	v.MaxLag = 1 << 20
	return v
}

// releases is the highest position that walsender e lets commits through to,
// when it counts those that counted says.
func (u *universe) releases(s state, e int, counted func(i int) bool) uint8 {
	k := u.settings.values[s.copies[e]].K
	for level := s.pos[s.primary]; level > s.acked; level-- {
		n := 0
		for i := range u.lives {
			if s.up&bit(i) != 0 && s.null&bit(i) == 0 && s.pos[i] >= level && counted(i) {
				n++
			}
		}
		if n >= k {
			return level
		}
	}
	return s.acked
}

// listed reports whether walsender i counts by its own copy: so PostgreSQL.
func (u *universe) listed(s state, i int) bool {
	return priority(u.settings.values[s.copies[i]], u.lives[i].String()) != 0
}

// settle acknowledges as much as can be at once: what could be acknowledged
// later is no worse. A walsender counts by the copies of the others, as in
// PostgreSQL, or, worse, by its own copy alone.
func (u *universe) settle(s state) state {
	if !s.defined {
		s.acked = s.pos[s.primary]
		return s
	}
	best := s.acked
	for e := range u.lives {
		if s.up&bit(e) == 0 || s.null&bit(e) != 0 || !u.listed(s, e) {
			continue
		}
		own := u.settings.values[s.copies[e]]
		best = max(best,
			u.releases(s, e, func(i int) bool { return u.listed(s, i) }),
			u.releases(s, e, func(i int) bool { return priority(own, u.lives[i].String()) != 0 }))
	}
	s.acked = best
	return s
}

// lacking reports, by trying every set of acknowledgements, whether setting can
// acknowledge a commit that has fewer than w copies in D.
func (u *universe) lacking(rec, setting uint16) bool {
	key := [2]uint16{rec, setting}
	answer, known := u.unsafe[key]
	if known {
		return answer
	}
	c, s := u.records.values[rec], u.settings.values[setting]
	var names []string
	for _, name := range s.Names {
		if !isDummy(name) {
			names = append(names, name)
		}
	}
	if s.Empty() {
		answer = c.K > 0
	}
	for set := range uint(1) << len(names) {
		if s.Empty() || bits.OnesCount(set) != s.K {
			continue
		}
		copies := 1 // the primary's
		for i, name := range names {
			if set&(1<<i) != 0 && slices.ContainsFunc(c.Members, func(m Member) bool { return m.String() == name }) {
				copies++
			}
		}
		answer = answer || copies < c.W()
	}
	u.unsafe[key] = answer
	return answer
}

// wrong says what is not as it must be, "" if nothing is.
func (u *universe) wrong(s state) string {
	if s.dirty {
		return ""
	}
	c := u.records.values[s.rec]
	if c.K > 0 && !s.defined {
		return "the record claims acknowledgements and backends do not wait"
	}
	for i, m := range u.lives {
		if s.up&bit(i) != 0 && u.listed(s, i) && u.lacking(s.rec, s.copies[i]) {
			return fmt.Sprintf("walsender of %s runs by '%s'", m, u.settings.values[s.copies[i]])
		}
	}
	for _, setting := range []uint16{s.file, s.conf} {
		if u.lacking(s.rec, setting) {
			return fmt.Sprintf("setting '%s' is or can come into force", u.settings.values[setting])
		}
	}
	holders := 0
	for i, m := range u.lives {
		if s.pos[i] >= s.acked && c.InD(m) {
			holders++
		}
	}
	if holders < c.W() {
		return fmt.Sprintf("%d of D hold what is acknowledged, w = %d", holders, c.W())
	}
	return ""
}

// move is one thing that may happen.
type move struct {
	to   state
	what string
}

// moves are all things that may happen next.
func (u *universe) moves(s state) []move {
	var all []move
	add := func(to state, format string, args ...any) {
		if to = u.settle(to); to != s {
			all = append(all, move{to, fmt.Sprintf(format, args...)})
		}
	}
	u.trackerMoves(s, add)
	u.serverMoves(s, add)
	if u.acks {
		u.walMoves(s, add)
	}
	u.faults(s, add)
	return all
}

type adder func(to state, format string, args ...any)

func (u *universe) trackerMoves(s state, add adder) {
	view := u.view(s)
	step := u.next(view)
	if s.writes > 0 {
		add(u.carryOut(s, view, step), "tracker: %s", step)
	}
	if s.crashes == 0 {
		return
	}
	crashed := s
	crashed.crashes--
	crashed.prog = u.progress.id(Progress{})
	add(crashed, "tracker crashes")
	if step.Kind == WriteSetting {
		crashed.file = u.settings.id(step.Setting)
		add(crashed, "tracker crashes before the reload of '%s'", step.Setting)
	}
}

// carryOut is the world after the tracker's step.
func (u *universe) carryOut(s state, view View, step Step) state {
	progress := view.After(step)
	switch step.Kind {
	case WriteRecord:
		if step.Record.K > view.Recorded.K || len(step.Record.Members) < len(view.Recorded.Members) && step.Record.K > 0 {
			s.dirty = false // it claims that all is well
		}
		s.rec = u.records.id(step.Record)
	case WriteSetting:
		if IsProbe(view.Sync.Setting) && !IsProbe(step.Setting) && view.Recorded.K > 0 {
			s.dirty = false // it has been mended
		}
		s.conf = u.settings.id(step.Setting)
		s.file = s.conf
	case Checkpoint:
		s.defined = !view.Sync.Setting.Empty()
	case ReadBarrier:
		progress = view.Progress.Read(view.Sync)
	default:
		return s
	}
	s.prog = u.progress.id(progress)
	s.writes--
	return s
}

func (u *universe) serverMoves(s state, add adder) {
	if s.file != s.conf {
		to := s
		to.conf = s.file
		add(to, "postmaster reloads '%s'", u.settings.values[s.file])
	}
	if waits := !u.settings.values[s.conf].Empty(); waits != s.defined {
		to := s
		to.defined = waits
		add(to, "checkpointer re-reads: backends wait: %t", waits)
	}
	for i, m := range u.lives {
		if s.up&bit(i) == 0 {
			continue
		}
		for _, setting := range []uint16{s.conf, s.file} {
			to := s
			to.copies[i] = setting
			add(to, "walsender of %s re-reads '%s'", m, u.settings.values[setting])
		}
	}
}

func (u *universe) walMoves(s state, add adder) {
	if s.pos[s.primary]+1 < u.levels {
		to := s
		to.pos[s.primary]++
		add(to, "a commit is written")
	}
	for i, m := range u.lives {
		if s.up&bit(i) == 0 {
			continue
		}
		to := s
		to.pos[i] = s.pos[s.primary]
		to.null &^= bit(i)
		add(to, "%s flushes and reports", m)
	}
}

func (u *universe) faults(s state, add adder) {
	for i, m := range u.lives {
		if i == int(s.primary) || u.dead&bit(i) != 0 || s.toggles == 0 {
			continue
		}
		to := s
		to.toggles--
		if s.gone&bit(i) == 0 {
			to.gone |= bit(i)
			add(to, "%s loses its lock", m)
			to.up &^= bit(i)
			add(to, "%s is gone", m)
			continue
		}
		to.gone &^= bit(i)
		to.up |= bit(i)
		if u.acks {
			to.null |= bit(i)
		}
		to.copies[i] = s.conf
		add(to, "%s connects", m)
	}
	if s.failovers > 0 && !s.dirty {
		u.failoverMoves(s, add)
	}
}

// failoverMoves lets every node win that R votes of D can make the winner.
func (u *universe) failoverMoves(s state, add adder) {
	c := u.records.values[s.rec]
	for q, m := range u.lives {
		if q == int(s.primary) || !c.InD(m) || u.dead&bit(q) != 0 {
			continue
		}
		votes := 0
		for i, o := range u.lives {
			if c.InD(o) && u.dead&bit(i) == 0 && s.pos[i] <= s.pos[q] {
				votes++
			}
		}
		if votes < c.R() {
			continue
		}
		after := c.After(m)
		to := s
		to.failovers--
		to.primary = uint8(q)
		to.rec, to.conf = u.records.id(after), u.settings.id(after.Setting())
		to.file, to.prog, to.defined = to.conf, u.progress.id(Progress{}), after.K > 0
		to.up, to.gone = 0, u.dead
		for i := range u.lives {
			to.copies[i], to.pos[i] = to.conf, min(s.pos[i], s.pos[q])
			if i != q && u.dead&bit(i) == 0 {
				to.up |= bit(i)
			}
		}
		if u.acks {
			to.null = to.up
		}
		add(to, "%s is promoted", m)
	}
}

// walk visits every state that can be reached, and returns how many there are,
// and the way to the first that is wrong. Each state is shown to visit, if any.
func (u *universe) walk(starts []state, visit func(state) string) (int, []string) {
	type origin struct {
		from state
		what string
	}
	came := map[state]origin{}
	var queue []state
	for _, s := range starts {
		if s = u.settle(s); came[s] == (origin{}) {
			came[s] = origin{s, "start"}
			queue = append(queue, s)
		}
	}
	way := func(s state, wrong string) []string {
		steps := []string{wrong}
		for {
			o := came[s]
			steps = append(steps, o.what)
			if o.from == s {
				steps = append(steps, u.describe(s))
				slices.Reverse(steps)
				return steps
			}
			s = o.from
		}
	}
	for at := 0; at < len(queue); at++ {
		s := queue[at]
		if wrong := u.wrong(s); wrong != "" {
			return len(came), way(s, wrong)
		}
		if visit != nil {
			if wrong := visit(s); wrong != "" {
				return len(came), way(s, wrong)
			}
		}
		for _, m := range u.moves(s) {
			if _, known := came[m.to]; !known {
				came[m.to] = origin{s, m.what}
				queue = append(queue, m.to)
			}
		}
	}
	return len(came), nil
}

func (u *universe) describe(s state) string {
	return fmt.Sprintf("%s, in force '%s', gone %06b", u.records.values[s.rec], u.settings.values[s.conf], s.gone)
}

// calm lets everything happen that is not a fault, each in its turn, until the
// tracker has nothing to do, and returns the end. It does not take for ever.
func (u *universe) calm(s state) (state, Step) {
	s.writes = 200
	for {
		s.conf = s.file
		s.defined = !u.settings.values[s.conf].Empty()
		s.null = 0
		for i := range u.lives {
			if s.up&bit(i) != 0 {
				s.copies[i], s.pos[i] = s.conf, s.pos[s.primary]
			}
		}
		s = u.settle(s)
		view := u.view(s)
		step := u.next(view)
		if step.Idle() || s.writes == 0 {
			return s, step
		}
		s = u.carryOut(s, view, step)
	}
}
