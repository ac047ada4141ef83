package pgtest

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/pghad/pghad/pg"
)

// server is one machine's PostgreSQL: what it has on disk, and its processes.
type server struct {
	Node
	c    *Cluster
	disk disk

	proc       *process   // nil if no process of it is left
	ended      pg.Process // how the last postmaster ended
	generation uint64     // grows with each start and end of a postmaster
	pids       int
	counts     map[string]int // how often a process of one name was started; read by key only
	refusal    string         // why the last receiver could not stream

	unseen   []*Record // of the last server, for a world without RuleFlushedIsCommitted
	received received  // by the last server, for a world without RuleReceivedIsForgotten
}

// received is what receivers have flushed since the server was started, and on
// which timeline that was asked for.
type received struct {
	lsn      pg.LSN
	timeline pg.Timeline
	valid    bool
}

// phase is how far a server has come.
type phase int

const (
	phaseStarting  phase = iota // recovery is not consistent: nobody is admitted
	phaseStandby                // hot standby
	phasePromoting              // recovery has ended, not writable yet
	phasePrimary
)

// process is the running server: its postmaster and all its children.
type process struct {
	s       *server
	phase   phase
	started time.Time
	pid     int

	postmaster   postmaster
	checkpointer checkpointer
	startup      *startup  // nil on a primary
	receiver     *receiver // nil if there is none
	senders      []*sender
	sessions     []*Session
	backups      int // base backups that are being taken

	received       received // shared memory, lost with the server (X6)
	replayed       pg.LSN
	checkpointSeen pg.LSN // the last checkpoint record that was replayed

	// A primary's own WAL that is not flushed yet, and its timeline.
	timeline pg.Timeline
	buffer   []*Record
	hidden   []*Record // commits whose sessions still wait: nobody sees them

	sync syncRep
}

// postmaster admits sessions and starts the other processes.
type postmaster struct {
	alive    bool
	frozen   bool
	reload   bool     // SIGHUP is pending
	read     settings // what it has read: what a new session shows
	stopping pg.StopMode
	shutting bool // sessions are gone, the shutdown checkpoint is written
}

const (
	processPostmaster   = "postmaster"
	processCheckpointer = "checkpointer"
	processStartup      = "startup"
	processReceiver     = "receiver"
	processWAL          = "wal"
)

// name makes the name of a process that can be started several times.
func (s *server) name(kind string) string {
	s.counts[kind]++
	return kind + "#" + strconv.Itoa(s.counts[kind])
}

func (s *server) nextPID() int {
	s.pids++
	return s.pids
}

// launch starts a postmaster on the data as it is.
func (s *server) launch() {
	s.generation++
	d := &s.disk
	p := &process{s: s, pid: s.nextPID(), timeline: d.control.Timeline, replayed: d.control.Checkpoint}
	if s.c.cfg.Now != nil {
		p.started = s.c.cfg.Now()
	}
	p.postmaster = postmaster{alive: true, read: d.files}
	p.checkpointer = checkpointer{alive: true}
	p.sync.defined = !d.files.Sync.Empty() && !s.c.without(RuleSettingFromTheStart)
	p.startup = &startup{conninfo: d.files.Upstream, along: s.recoveryLineage()}
	s.proc = p
	d.wal.durable = d.wal.tail() // a start syncs the data directory
	if s.c.without(RuleFlushedIsCommitted) {
		p.hidden = s.unseen
	}
	if s.c.without(RuleReceivedIsForgotten) {
		p.received = s.received
	}
	if err := s.refuses(); err != nil {
		p.end(s.howExited())
		return
	}
	if d.signal {
		d.control.State = stateRecovery
	} else {
		d.control.State = stateProduction
	}
}

// howExited is what a server that has ended by itself is taken for: stopped, if it
// has left its data as a clean shutdown did.
func (s *server) howExited() pg.Process {
	if s.disk.clean() {
		return pg.ProcessStopped
	}
	return pg.ProcessCrashed
}

// refuses says why recovery cannot begin: the history that would be followed
// does not contain this server's own WAL (X13).
func (s *server) refuses() error {
	if s.c.without(RulePastHistoryRefuses) {
		return nil
	}
	d := &s.disk
	along := s.recoveryLineage()
	if t := timelineOfPoint(along, d.control.Checkpoint); d.control.Checkpoint > firstLSN && t != d.control.Timeline {
		return fmt.Errorf("requested timeline %d is not a child of this server's history", along.Timeline)
	}
	if m := d.control; m.Minimum > firstLSN && timelineOfPoint(along, m.Minimum-1) != m.MinimumTimeline {
		return fmt.Errorf("requested timeline %d does not contain minimum recovery point %s on timeline %d",
			along.Timeline, m.Minimum, m.MinimumTimeline)
	}
	return nil
}

// end is the end of the postmaster with all that is left of the server.
func (p *process) end(how pg.Process) {
	s := p.s
	s.unseen, s.received = p.hidden, p.received
	for _, session := range p.sessions {
		session.lose()
	}
	for _, w := range p.senders {
		w.leave()
	}
	if p.receiver != nil {
		p.receiver.leave()
	}
	for _, name := range s.disk.slotNames() {
		s.disk.slots[name].used = nil
	}
	if p.postmaster.alive {
		s.generation++
	}
	p.postmaster.alive = false
	p.sessions, p.senders, p.receiver, p.startup = nil, nil, nil, nil
	p.checkpointer.alive = false
	s.proc, s.ended = nil, how
}

// writable reports whether sessions can commit.
func (p *process) writable() bool { return p.phase == phasePrimary && !p.postmaster.shutting }

// admits reports whether a session that begins now is let in by the postmaster.
// Frozen, it neither lets in nor refuses.
func (p *process) admits() bool {
	return p.postmaster.alive && !p.postmaster.frozen && p.postmaster.stopping == "" && !p.starting()
}

// starting reports whether recovery keeps everybody out.
func (p *process) starting() bool {
	return p.phase == phaseStarting && !p.s.c.without(RuleRecoveryTakesTime)
}

// flushed is the last durable byte of a primary.
func (p *process) flushed() pg.LSN { return p.s.disk.wal.durable }

// inserted is the record behind which the next one is made.
func (p *process) inserted() *Record {
	if n := len(p.buffer); n > 0 {
		return p.buffer[n-1]
	}
	return p.s.disk.wal.last()
}

// insert makes a record that is not durable yet.
func (p *process) insert(kind Kind, commits []string) *Record {
	r := p.s.c.newRecord(p.inserted(), p.timeline, kind, commits)
	p.buffer = append(p.buffer, r)
	return r
}

// flush makes the primary's own WAL durable. A server that can make no file for
// it ends (C21).
func (p *process) flush() {
	d := &p.s.disk
	w := &d.wal
	fit := len(p.buffer)
	if room := p.s.room(); room > 0 {
		fit = sort.Search(fit, func(i int) bool { return p.buffer[i].End > room })
	}
	failed := fit < len(p.buffer)
	w.records = append(w.records, p.buffer[:fit]...)
	w.partial, w.durable = 0, w.end()
	p.buffer = nil
	if failed {
		p.end(pg.ProcessCrashed)
	}
}

// room is up to where there are WAL files while no new one can be made; zero
// means that they can.
func (s *server) room() pg.LSN {
	if s.c.without(RuleFullDisk) {
		return 0
	}
	return s.disk.room
}

// ended reports whether this is no longer the server's process.
func (p *process) ended() bool { return p.s.proc != p }

// current is the timeline that the server would name in IDENTIFY_SYSTEM.
func (p *process) current() pg.Timeline {
	if p.phase == phasePrimary {
		return p.timeline
	}
	return p.s.disk.wal.timelineAt(p.replayed)
}

// available is up to where the server can send WAL, and what it says of itself in
// IDENTIFY_SYSTEM: what a primary has flushed; on a standby what was replayed, or
// received on the same timeline.
func (p *process) available() pg.LSN {
	if p.phase == phasePrimary {
		return p.flushed()
	}
	lsn := p.replayed
	if p.received.valid && p.received.timeline == p.current() && !p.s.c.without(RuleCascadePassesOn) {
		lsn = max(lsn, min(p.received.lsn, p.s.disk.wal.durable))
	}
	return lsn
}

// events says what the server's processes may do now.
func (s *server) events(a *agenda) {
	p := s.proc
	if p == nil || p.postmaster.frozen && s.c.without(RuleFrozenPostmaster) {
		return
	}
	p.postmasterEvents(a)
	p.checkpointerEvents(a)
	if p.startup != nil {
		p.startup.events(a, p)
	}
	if p.receiver != nil {
		p.receiver.events(a)
	}
	a.may(len(p.buffer) > 0, processWAL, actionFlush, p.flush)
	for _, w := range p.senders {
		w.events(a)
	}
	for _, session := range p.sessions {
		session.events(a)
	}
}

func (p *process) postmasterEvents(a *agenda) {
	m := &p.postmaster
	if !m.alive {
		last := p.startup == nil && p.receiver == nil && len(p.senders)+len(p.sessions) == 0 && !p.checkpointer.alive
		a.may(last, processPostmaster, "gone", func() { p.end(pg.ProcessCrashed) })
		return
	}
	if m.frozen {
		return
	}
	a.may(m.stopping == pg.StopImmediate, processPostmaster, "quit", func() { p.end(pg.ProcessStopped) })
	a.may(m.reload, processPostmaster, "reload", p.reload)
	a.may(m.stopping == pg.StopFast && !m.shutting && !p.deafToTerm(), processPostmaster, "end sessions", p.endSessions)
	a.may(m.stopping == pg.StopFast && m.shutting && (len(p.senders) == 0 || p.s.c.without(RuleStopShips)) && p.shutDown(), processPostmaster, "exit",
		func() { p.end(pg.ProcessStopped) })
}

// reload reads the configuration and tells the children, each of which reads it
// for itself, in its own time.
func (p *process) reload() {
	p.postmaster.reload = false
	p.postmaster.read = p.s.disk.files
	p.checkpointer.reload = true
	if p.startup != nil {
		p.startup.reload = true
	}
	for _, w := range p.senders {
		w.reload = true
	}
}

// endSessions is the first half of a fast stop: sessions and, on a standby,
// recovery end. Walsenders go on until everything is shipped.
func (p *process) endSessions() {
	p.postmaster.shutting = true
	for _, session := range p.sessions {
		session.lose()
	}
	p.sessions = nil
	switch {
	case p.phase == phasePrimary:
		p.flush()
		return
	case p.phase == phasePromoting || !p.s.disk.signal:
		p.end(pg.ProcessStopped) // recovery that is to make a primary is not shut down in good order
		return
	}
	if p.receiver != nil {
		p.receiver.leave()
		p.receiver = nil
	}
	d := &p.s.disk
	d.control.State = stateShutDownRec
	p.restartpoint()
	d.control.Minimum = max(d.control.Minimum, p.replayed)
	d.control.MinimumTimeline = max(d.control.MinimumTimeline, d.wal.timelineAt(p.replayed))
	p.startup = nil
}

// deafToTerm reports whether a process that a fast stop has to end is frozen: it
// does not answer SIGTERM, and the postmaster waits.
func (p *process) deafToTerm() bool {
	deaf := p.startup != nil && p.startup.frozen || p.receiver != nil && p.receiver.frozen
	if p.phase != phasePrimary {
		deaf = deaf || p.checkpointer.frozen // it has the shutdown restartpoint to write
	}
	return deaf || slices.ContainsFunc(p.sessions, func(s *Session) bool { return s.frozen })
}

// shutDown reports whether nothing is left to be written before the exit.
func (p *process) shutDown() bool {
	state := p.s.disk.control.State
	return state == stateShutDown || state == stateShutDownRec
}

// removeSender forgets a walsender that has ended.
func (p *process) removeSender(w *sender) {
	p.senders = slices.DeleteFunc(slices.Clone(p.senders), func(o *sender) bool { return o == w })
}

// removeSession forgets a session that has ended.
func (p *process) removeSession(session *Session) {
	p.sessions = slices.DeleteFunc(slices.Clone(p.sessions), func(o *Session) bool { return o == session })
}
