package ha

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/rejoin"
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// lead does what the holder of `leader` has to do: bring its server up as the
// primary of its term, admit clients when the quorum holds what they may see,
// and keep the records. Everything in it ends when the lease does.
func (n *Node) lead(ctx context.Context, v look) (time.Duration, error) {
	o := n.office
	leading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(o.ctx, func() { cancel(context.Cause(o.ctx)) })()

	switch {
	case v.storeErr != nil:
		return n.leadAlone(leading, v)
	case o.Lease.Check() != nil || !v.records.Leader.Held() && o.warrant.standsAlone():
		return n.regain(leading, v)
	case n.coordinator.Pledged(o.Office):
		return 0, n.resolveSwitchover(leading, v)
	}
	if cause := n.deposed(v); cause != nil {
		return 0, n.stepDown(ctx, v, cause)
	}
	switch {
	case n.memory.State().Maintenance && !v.primary():
		n.why = fmt.Sprintf("maintenance is on: the server is %s and is left so", v.server.Process)
		return n.cfg.Timing.Observe, nil
	case v.stopped():
		return 0, n.startInPlace(leading, v)
	case v.standby():
		return 0, n.promote(leading, v)
	case v.primary():
		return n.serve(leading, v)
	default:
		return shortPause, n.unwell(leading, fmt.Errorf("the server is %s and its health %s %s",
			v.server.Process, v.server.Health, v.server.Err))
	}
}

// deposed says why the term is over although the lease is in force: the lock or
// the records are not those of this term any more.
func (n *Node) deposed(v look) error {
	o, state := n.office, v.records.Failover.Value
	switch {
	case v.records.Leader.Created != o.Lease.Token():
		return fmt.Errorf("%w: `leader` is another incarnation", ErrFenced)
	case state.ID != o.Term || state.Nonce != o.Nonce:
		return fmt.Errorf("%w: election %d is newer than term %d", ErrFenced, state.ID, o.Term)
	case v.recorded().Primary != n.self():
		return fmt.Errorf("%w: the recorded primary is %s", ErrFenced, v.recorded().Primary)
	default:
		return nil
	}
}

// leadAlone is what the primary does while the store does not answer: it serves
// as long as its warrant lasts, and writes no record.
func (n *Node) leadAlone(ctx context.Context, v look) (time.Duration, error) {
	o := n.office
	n.why = "the store does not answer: " + v.storeErr.Error()
	if left, err := o.warrant.lasts(); err != nil {
		n.why += fmt.Sprintf("; on promises of members for another %s", left.Round(time.Millisecond))
	}
	recorded, known := o.warrant.settled()
	switch {
	case n.memory.State().Maintenance:
		return n.cfg.Timing.Observe, nil
	case v.primary() && v.server.GateOpen:
		return n.cfg.Timing.Observe, n.selfCheck(ctx)
	case v.stopped() && known && o.promoted && !n.coordinator.Pledged(o.Office) && o.failures < maxStarts:
		// The record in force is known, and so is the setting.
		return 0, n.startServer(ctx, v, recorded)
	case v.primary() && known:
		_, err := n.openGate(ctx, v, recorded)
		return shortPause, err
	default:
		return n.cfg.Timing.Observe, nil
	}
}

func (n *Node) self() quorum.Member { return n.memory.State().Member(n.cfg.Name) }

// startInPlace brings a server that has ended back on the timeline it has, with
// the recorded setting in force and the gate closed. That is faster than a
// promotion elsewhere as long as it works; when it does not, others are elected.
func (n *Node) startInPlace(ctx context.Context, v look) error {
	o := n.office
	if v.disk.Standby {
		return n.startStandby(ctx, v, pg.Upstream{})
	}
	term, ok := v.records.History.Value.Find(o.Term)
	if !ok || (term.Parent != 0 && term.SwitchAt == 0 && !o.promoted) {
		// The end of a promotion was not seen: which timeline the data is on is
		// not known, and nobody else can be hurt by an election.
		return n.resign(ctx, errors.New("the server ended in the middle of its promotion"))
	}
	if o.failures >= maxStarts {
		return n.resign(ctx, fmt.Errorf("the server did not start in place in %d attempts", o.failures))
	}
	// The server starts with the recorded setting. A write of the record that
	// may still be on its way must not land afterwards: it could claim less.
	if _, known := o.warrant.settled(); !known {
		if err := n.rewriteQuorum(ctx, v.records); err != nil {
			return err
		}
		o.warrant.settle(v.recorded())
	}
	return n.startServer(ctx, v, v.recorded())
}

// startServer starts the server as the primary of the timeline that it has.
func (n *Node) startServer(ctx context.Context, v look, recorded quorum.Config) error {
	o := n.office
	o.failures++
	n.cfg.Logger.InfoContext(ctx, "starting the server in place", "term", o.Term, "process", string(v.server.Process), "attempt", o.failures)
	n.writable = true
	// A start that takes longer than an election would is given up.
	bounded, cancel := timectx.With(ctx, n.cfg.Clock, n.cfg.Timing.ElectionTimeout, "start in place")
	defer cancel()
	return n.cfg.Effects.run("server/start-primary", func() error {
		if err := n.setDeadline(bounded, o); err != nil {
			return err
		}
		return n.cfg.Postgres.StartPrimary(bounded, o.warrant, recorded.Setting())
	})
}

// rewriteQuorum writes the record again as it is, under the revision just read:
// a write of unknown outcome, guarded by an older one, can no longer land.
func (n *Node) rewriteQuorum(ctx context.Context, records record.Cluster) error {
	nonce, err := newNonce(n.cfg.Rand)
	if err != nil {
		return err
	}
	next := records.Quorum.Value.Next(nonce, records.Quorum.Value.Config)
	return n.commitAsLeader(ctx, "office/rewrite-quorum", dcs.Txn{
		If:   []dcs.Guard{records.Quorum.Guard(n.keys.Quorum())},
		Then: []dcs.Op{{Key: n.keys.Quorum(), Value: record.Encode(next)}},
	})
}

// promote turns the fenced standby into the primary of the reserved timeline.
// The setting of the term is in force before it can acknowledge anything.
func (n *Node) promote(ctx context.Context, v look) error {
	o := n.office
	if err := n.mark(); err != nil { // whoever comes back finishes this term
		return err
	}
	setting := v.recorded().Setting()
	if setting.Empty() && len(v.recorded().Members) > 0 && v.recorded().Mode != quorum.ModeAsync {
		setting = pg.SyncSetting{Method: pg.SyncAny, K: 1, Names: (quorum.Config{K: 1, Members: v.recorded().Members}).Setting().Names}
	}
	if err := n.adoptDormant(ctx, setting); err != nil {
		return err
	}
	began := n.cfg.Clock.Now()
	var done pg.Promotion
	err := n.cfg.Effects.run("server/promote", func() (err error) {
		if err := n.setDeadline(ctx, o); err != nil {
			return err
		}
		done, err = n.cfg.Postgres.Promote(ctx, o.warrant, o.Timeline)
		return err
	})
	if err != nil {
		if o.warrant.Check() != nil {
			return err
		}
		return errors.Join(err, n.resign(ctx, fmt.Errorf("promotion: %w", err)))
	}
	o.promoted = true
	n.cfg.Logger.InfoContext(ctx, "promoted", "term", o.Term, "timeline", done.Timeline, "switch", done.SwitchAt.String())
	if n.cfg.Events.Promotion != nil {
		n.cfg.Events.Promotion(PromotionInfo{
			Term: o.Term, Timeline: done.Timeline, SwitchAt: done.SwitchAt, Took: n.cfg.Clock.Since(began),
		})
	}
	return n.recordSwitch(ctx, v.records, done.SwitchAt)
}

// adoptDormant puts the setting in force on the standby that is about to be
// promoted: a new session shows it, and no walsender of a cascaded standby is
// left that could still count by the old one (X9).
func (n *Node) adoptDormant(ctx context.Context, setting pg.SyncSetting) error {
	view, err := n.cfg.Postgres.SyncView(ctx)
	if err == nil && !view.Setting.Equal(setting) {
		if err = n.cfg.Postgres.SetSync(ctx, setting); err == nil {
			view, err = n.cfg.Postgres.SyncView(ctx)
		}
	}
	if err == nil && len(view.Senders) > 0 {
		err = n.cfg.Postgres.DropSenders(ctx)
	}
	if err != nil {
		return fmt.Errorf("synchronous setting: %w", err)
	}
	return nil
}

// recordSwitch adds the switch LSN to the term's entry of `history` and writes
// `timeline`. Others follow when they read it.
func (n *Node) recordSwitch(ctx context.Context, records record.Cluster, at pg.LSN) error {
	history := slices.Clone(records.History.Value)
	for i := range history {
		if history[i].Timeline == n.office.Timeline && history[i].Parent != 0 {
			history[i].SwitchAt = at
		}
	}
	return n.commitAsLeader(ctx, "office/switch", dcs.Txn{
		If: []dcs.Guard{records.History.Guard(n.keys.History()), records.Timeline.Guard(n.keys.Timeline())},
		Then: []dcs.Op{
			{Key: n.keys.History(), Value: record.Encode(history)},
			{Key: n.keys.Timeline(), Value: []byte(n.office.Timeline.String())},
		},
	})
}

// commitAsLeader writes what only the primary writes: guarded by the lock's
// token beside the caller's guards.
func (n *Node) commitAsLeader(ctx context.Context, effect string, txn dcs.Txn) error {
	if err := n.office.Lease.Check(); err != nil {
		return err
	}
	txn.If = append(txn.If, n.office.Lease.Guard())
	ctx, cancel := n.request(ctx, "writing "+effect)
	defer cancel()
	return n.cfg.Effects.run(effect, func() error {
		_, err := n.cfg.Store.Commit(ctx, txn)
		if err != nil {
			return fmt.Errorf("%s: %w", effect, err)
		}
		return nil
	})
}

// serve is a healthy iteration of a primary.
func (n *Node) serve(ctx context.Context, v look) (time.Duration, error) {
	o := n.office
	if v.server.Timeline != o.Timeline {
		return shortPause, n.resign(ctx, fmt.Errorf("%w: the server is on timeline %d, the term's is %d",
			pg.ErrWrongTimeline, v.server.Timeline, o.Timeline))
	}
	o.promoted = true
	pause := n.cfg.Timing.Observe
	if promotion, ok := v.records.History.Value.Promotion(o.Timeline); ok && promotion.SwitchAt == 0 {
		// A promotion whose end was not recorded: Promote says where it switched.
		done, err := n.cfg.Postgres.Promote(ctx, o.warrant, o.Timeline)
		if err != nil {
			return shortPause, err
		}
		return 0, n.recordSwitch(ctx, v.records, done.SwitchAt)
	}
	if !v.server.GateOpen {
		opened, err := n.openGate(ctx, v, v.recorded())
		if err != nil || opened {
			// Slots and the rest follow at once, clients are not kept waiting for them.
			return 0, err
		}
		if n.cfg.Clock.Since(o.barrier.since) < n.cfg.Timing.Observe {
			return shortPause, nil
		}
		// The members that are recorded do not come. Others may be admitted in
		// their place, and those that come back are answered.
		pause = shortPause
	} else {
		o.failures = 0
		if err := n.mark(); err != nil {
			return shortPause, err
		}
	}
	done, soon, err := n.switchOver(ctx, v)
	if done || err != nil {
		return soon, err
	}
	pause = min(pause, soon)
	n.keepSlots(ctx, v)
	busy, err := n.track(ctx, v)
	if err != nil {
		return shortPause, err
	}
	if busy {
		pause = shortPause
	}
	if n.answerQuestions(v) {
		pause = min(pause, shortPause)
	}
	if err := n.publishAsLeader(ctx, v); err != nil {
		return pause, err
	}
	return pause, n.selfCheck(ctx)
}

// openGate admits clients when k members have flushed a position that was read
// after the server could be written to: then nothing that they see can vanish.
func (n *Node) openGate(ctx context.Context, v look, recorded quorum.Config) (bool, error) {
	o := n.office
	if o.barrier.generation != v.server.Generation || o.barrier.lsn == 0 {
		o.barrier = barrier{generation: v.server.Generation, lsn: v.server.Flushed, since: n.cfg.Clock.Now()}
	}
	view := pg.SyncView{Setting: v.server.Sync, Flush: v.server.Flushed, Senders: v.server.Senders}
	if passed, missing := quorum.Passed(view, recorded, o.barrier.lsn); !passed {
		n.why = fmt.Sprintf("clients are not admitted until %d of %v have flushed %s; missing: %v",
			recorded.K, recorded.Members, o.barrier.lsn, missing)
		return false, nil
	}
	if err := o.warrant.Check(); err != nil {
		return false, err
	}
	o.admitted, o.lent = true, ""
	if err := n.cfg.Effects.run("server/open-gate", func() error { return n.cfg.Postgres.OpenGate(ctx) }); err != nil {
		return false, fmt.Errorf("open to clients: %w", err)
	}
	n.cfg.Logger.InfoContext(ctx, "open to clients", "term", o.Term, "barrier", o.barrier.lsn.String())
	if n.cfg.Events.Gate != nil {
		n.cfg.Events.Gate(GateInfo{Term: o.Term, Barrier: o.barrier.lsn})
	}
	return true, nil
}

// answerQuestions tells members that ask whether their copy is needed: it is
// not once k others have flushed a position read after the question was seen.
// It reports whether a question is still open.
func (n *Node) answerQuestions(v look) bool {
	o, open := n.office, false
	for _, host := range v.records.Members {
		nonce := host.Value.Rejoin
		if nonce == "" {
			delete(o.spared, host.Name)
			continue
		}
		if o.spared[host.Name].nonce != nonce {
			o.spared[host.Name] = spare{nonce: nonce, lsn: v.server.Flushed}
		}
		open = open || !n.isSpared(v, host.Name)
	}
	return open
}

// isSpared is the answer to a member's question: see rejoin.Spared. Once it is yes
// it stays yes, and is remembered.
func (n *Node) isSpared(v look, host string) bool {
	o := n.office
	question, ok := o.spared[host]
	if !ok || question.answered {
		return ok
	}
	view := rejoin.SpareView{
		K: v.recorded().K, Admitted: o.admitted || v.server.GateOpen, Pending: o.lent != "" && o.lent != host,
	}
	sync := pg.SyncView{Setting: v.server.Sync, Flush: v.server.Flushed, Senders: v.server.Senders}
	for _, m := range v.recorded().Members {
		if m.Node == host {
			continue
		}
		alone := quorum.Config{Members: []quorum.Member{m}, K: 1}
		if passed, _ := quorum.Passed(sync, alone, question.lsn); passed {
			view.Flushed++
		} else if n.rests(v, m) {
			view.Resting++
		}
	}
	if !rejoin.Spared(view) {
		return false
	}
	if view.Flushed < view.K {
		o.lent = host
	}
	question.answered = true
	o.spared[host] = question
	return true
}

// rests reports whether a recorded member lies still with everything on it that
// was acknowledged before this term: it was the primary until then, or it holds
// the WAL up to where this term's timeline begins. It was fenced when it asked in
// this term, and nothing happens to its data before it has an answer.
func (n *Node) rests(v look, m quorum.Member) bool {
	o := n.office
	said, ok := v.records.Member(m.Node)
	if !ok || said.Incarnation != m.Incarnation || said.Floor != nil ||
		!strings.HasPrefix(said.Rejoin, questionPrefix(o.Term)) || o.spared[m.Node].answered {
		return false
	}
	if m == o.Former {
		return true
	}
	term, ok := v.records.History.Value.Find(o.Term)
	if !ok || term.Parent == 0 || term.SwitchAt == 0 {
		return false
	}
	own := pg.Position{Timeline: said.Timeline, LSN: pg.LSN(said.XlogLSN)}
	return rejoin.Holds(own, v.records.History.Value.Lineage(own.Timeline), term.Parent, term.SwitchAt)
}

// selfCheck proves, once per Observe, that the server can still write.
func (n *Node) selfCheck(ctx context.Context) error {
	if now := n.cfg.Clock.Now(); now.Sub(n.office.checked) < n.cfg.Timing.Observe {
		return nil
	}
	n.office.checked = n.cfg.Clock.Now()
	asked, cancel := n.request(ctx, "self-check of the server")
	defer cancel()
	if err := n.cfg.Postgres.SelfCheck(asked); err != nil {
		return n.unwell(ctx, fmt.Errorf("self-check: %w", err))
	}
	n.office.unwell = time.Time{}
	return nil
}

// unwell gives the term up when the server has not been able to answer or to
// write for a whole TTL. One failed look proves nothing.
func (n *Node) unwell(ctx context.Context, cause error) error {
	now := n.cfg.Clock.Now()
	if n.office.unwell.IsZero() {
		n.office.unwell = now
	}
	if now.Sub(n.office.unwell) >= n.cfg.Timing.TTL {
		return n.resign(ctx, cause)
	}
	n.why = cause.Error()
	return nil
}
