package ha

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/rejoin"
	"github.com/pghad/pghad/ha/role"
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// follow brings the server to stream from the holder of `leader`, as far as
// its recorded term, its timeline and the node's own history allow.
func (n *Node) follow(ctx context.Context, v look) (time.Duration, error) {
	if !n.counts(v) {
		n.dropMembership(ctx)
	}
	term, err := v.records.InOffice()
	if err != nil {
		return shortPause, err
	}
	local, nonce := n.memory.State(), v.records.Failover.Value.Nonce
	if local.bars(term.ID, nonce) {
		return n.cfg.Timing.Observe, fmt.Errorf("%w: %d, and %s leads term %d", ErrPledged, local.Pledge, term.Primary, term.ID)
	}
	up, err := n.upstreamOf(v, term.Primary)
	if err != nil {
		return shortPause, err
	}
	if n.follows(term, up) {
		return n.keepFollowing(ctx, v, term, up)
	}
	if n.streamsAlready(v, term, up) {
		return 0, n.goOnFollowing(ctx, v, term, up)
	}
	if before := n.following.upstream; v.standby() && n.follows(term, before) && rename(before, up.Name) == up {
		// It is past its floor: the same stream, under the name that may be counted.
		return 0, n.startFollowing(ctx, v, term, up)
	}
	if err := n.restOnOwnData(ctx, v); err != nil && !n.unfit(err) {
		return shortPause, err
	}
	plan, err := n.planRejoin(ctx, v, term, up)
	if err != nil {
		return shortPause, err
	}
	switch plan.Action {
	case rejoin.Follow:
		return 0, n.startFollowing(ctx, v, term, up)
	case rejoin.Rewind, rejoin.Clone:
		return 0, n.rebuild(ctx, v, term, up, plan)
	case rejoin.Ask:
		err = n.ask(term)
	case rejoin.Wait:
	}
	n.why = plan.Why
	return shortPause, err
}

// streamsAlready reports whether the server streams from up, on the term's
// timeline, as it should: after a restart of the agent, or when the same primary
// has begun another term. A timeline number is used once, so it is the same
// server with the same history.
func (n *Node) streamsAlready(v look, term record.Term, up pg.Upstream) bool {
	local, receiver := n.memory.State(), v.server.Receiver
	return v.standby() && v.server.Streams() && !local.BelowFloor() &&
		receiver.Host == up.Host && receiver.Port == up.Port && receiver.Timeline == term.Timeline &&
		streamsAs(v.server, up.Name) &&
		(n.following.upstream == up || n.following.term == 0 && local.Pledge == term.ID)
}

// streamsAs reports whether a server is set to stream under a name that may be
// counted.
func streamsAs(server pg.Status, name string) bool {
	return strings.Contains(server.Upstream, name) && !strings.Contains(server.Upstream, name+uncounted)
}

// goOnFollowing binds the node to the term. The server is not touched.
func (n *Node) goOnFollowing(ctx context.Context, v look, term record.Term, up pg.Upstream) error {
	if err := n.pledgeTerm(v, term); err != nil {
		return err
	}
	n.following, n.question, n.noRewind = following{term: term.ID, upstream: up}, question{}, ""
	n.cfg.Logger.InfoContext(ctx, "goes on following", "term", term.ID, "primary", term.Primary, "timeline", term.Timeline)
	return nil
}

// follows reports whether the server was pointed at up in this term, under the
// name that it should stream under now.
func (n *Node) follows(term record.Term, up pg.Upstream) bool {
	return n.following == following{term: term.ID, upstream: up} && n.memory.State().Pledge == term.ID
}

func rename(up pg.Upstream, name string) pg.Upstream {
	up.Name = name
	return up
}

// keepFollowing is a healthy iteration of a replica.
func (n *Node) keepFollowing(ctx context.Context, v look, term record.Term, up pg.Upstream) (time.Duration, error) {
	switch {
	case v.stopped():
		if n.turns++; n.turns > maxTurns {
			n.following = following{} // it does not start as a standby of this primary: compare anew
			return 0, nil
		}
		return 0, n.startStandby(ctx, v, up)
	case !v.standby():
		n.why = fmt.Sprintf("the server is %s and its health %s %s", v.server.Process, v.server.Health, v.server.Err)
		// It was restarted because it got no stream, and does not even reach again
		// where it has been. Nobody counts on a copy below its floor.
		if n.turns > 0 && n.memory.State().BelowFloor() && n.dryFor() >= 3*n.cfg.Timing.ElectionTimeout {
			return shortPause, n.turnAround(ctx, up)
		}
		return shortPause, nil
	case !streamsAs(v.server, up.Name):
		n.following = following{} // somebody else has pointed it elsewhere
		return 0, nil
	case v.server.Streams():
		// Where the WAL that it needs is gone, streaming begins each time, and ends at
		// once.
		if now := n.cfg.Clock.Now(); n.flows.IsZero() {
			n.flows = now
		} else if now.Sub(n.flows) >= n.cfg.Timing.Observe {
			n.dry, n.turns = time.Time{}, 0
		}
	default:
		n.flows = time.Time{}
		n.why = "waiting for the stream from " + up.Address()
		if n.dryFor() >= n.cfg.Timing.ElectionTimeout {
			return shortPause, n.turnAround(ctx, up)
		}
	}
	if passed, err := n.passFloor(v, term); err != nil || passed {
		return 0, err
	}
	if n.counts(v) {
		n.joinMembership(ctx)
	}
	n.keepSlots(ctx, v)
	if !v.server.Streams() {
		return n.cfg.Timing.Observe / 4, nil
	}
	return n.cfg.Timing.Observe, nil
}

// dryFor is how long the server has followed without a stream.
func (n *Node) dryFor() time.Duration {
	now := n.cfg.Clock.Now()
	if n.dry.IsZero() {
		n.dry = now
	}
	return now.Sub(n.dry)
}

// turnAround restarts a server that does not stream although its primary is
// there: a startup process that is set on a timeline which it has not reached
// does not turn to one that forked earlier. After that the node compares
// lineages anew.
func (n *Node) turnAround(ctx context.Context, up pg.Upstream) error {
	n.dry = time.Time{}
	asked, cancel := n.request(ctx, "asking "+up.Address()+" who it is")
	_, err := n.cfg.Postgres.Identify(asked, up)
	cancel()
	if err != nil {
		return fmt.Errorf("identify %s: %w", up.Address(), err)
	}
	n.turns++
	n.cfg.Logger.WarnContext(ctx, "no stream from a primary that is there, restarting", "primary", up.Address(), "time", n.turns)
	bounded, cancel := timectx.With(ctx, n.cfg.Clock, n.cfg.Timing.ElectionTimeout, "fast stop")
	defer cancel()
	return n.stop(bounded, pg.StopFast)
}

// counts reports whether this node may be counted as a holder of commits: it
// streams from the leader and is past its floor.
func (n *Node) counts(v look) bool {
	return v.standby() && v.server.Streams() && n.following.term != 0 &&
		n.following.term == v.records.Failover.Value.ID && !n.memory.State().BelowFloor()
}

// passFloor notices that the server has flushed what its copy was incomplete
// without. It may then stream under its own name.
func (n *Node) passFloor(v look, term record.Term) (bool, error) {
	local := n.memory.State()
	held := v.server.Held()
	if local.Copying || local.Floor == (pg.Position{}) || held.Timeline != term.Timeline || held.Compare(local.Floor) < 0 {
		return false, nil
	}
	return true, n.memory.Update(func(s *LocalState) { s.Floor, s.FloorTerm = pg.Position{}, 0 })
}

// restOnOwnData makes the node hold still on what it has: a running server is
// fenced, a stopped one is started as a fenced standby, so that its position is
// the end of what it holds.
func (n *Node) restOnOwnData(ctx context.Context, v look) error {
	local := n.memory.State()
	if v.data != role.DataPresent || local.Creating {
		return nil
	}
	n.following = following{}
	if local.BelowFloor() && !v.standby() {
		// It cannot be opened without its source: at rest it is stopped.
		return n.stop(ctx, pg.StopImmediate)
	}
	if v.stopped() {
		if err := n.startStandby(ctx, v, pg.Upstream{}); err != nil {
			return err
		}
	}
	n.broken = ""
	ctx, cancel := timectx.With(ctx, n.cfg.Clock, n.cfg.Timing.ElectionTimeout, "fence")
	defer cancel()
	if _, err := n.cfg.Postgres.Position(ctx); err == nil {
		return nil // it has voted, or was started so: it is fenced
	}
	if err := n.cfg.Effects.run("follow/fence", func() error { return n.cfg.Postgres.Fence(ctx) }); err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	return nil
}

// unfit counts the times that the server did not start although nothing but its
// own data was asked of it, and reports whether that is enough: the data is then
// replaced as soon as it is not needed.
func (n *Node) unfit(err error) bool {
	if !errors.Is(err, errStart) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false
	}
	if n.turns++; n.turns < maxTurns {
		return false
	}
	n.broken = err.Error()
	return true
}

// planRejoin asks the primary who it is and compares.
func (n *Node) planRejoin(ctx context.Context, v look, term record.Term, up pg.Upstream) (rejoin.Plan, error) {
	asked, cancel := n.request(ctx, "asking "+up.Address()+" who it is")
	defer cancel()
	remote, err := n.cfg.Postgres.Identify(asked, up)
	if err != nil {
		return rejoin.Plan{}, fmt.Errorf("identify %s: %w", up.Address(), err)
	}
	if remote.SystemID != v.records.Initialize.Value {
		// Not ErrForeignData, which ends the node: its own data is not the foreign one.
		return rejoin.Plan{}, fmt.Errorf("the server at %s, which should be %s, is of system %s and the cluster of %s: who answers there?",
			up.Address(), term.Primary, remote.SystemID, v.records.Initialize.Value)
	}
	if remote.Standby {
		return rejoin.Plan{Action: rejoin.Wait, Why: term.Primary + " is not promoted yet"}, nil
	}
	local := n.memory.State()
	view := rejoin.View{
		HasData: v.data == role.DataPresent && !local.Creating,
		Remote:  remote.Lineage, Expected: term.Timeline, Checkpointed: remote.CheckpointTimeline,
		Recorded: v.recorded().InD(n.self()), NoRewind: n.noRewind,
		ElectionOpen: v.records.Failover.Value.Open(),
		Spared: v.records.Status.Value.Term == term.ID && n.question.term == term.ID && n.question.nonce != "" &&
			v.records.Status.Value.Spared[n.cfg.Name] == n.question.nonce,
	}
	if n.turns >= maxTurns {
		view.NoStream = fmt.Sprintf("no stream from %s after %d restarts: the WAL that is needed may be gone there", up.Address(), n.turns)
	}
	if local.BelowFloor() {
		// Nobody counts on what it holds.
		view.Recorded, view.NoRewind = false, "the copy is below its floor"
	}
	if n.broken != "" {
		view.NoStream = n.broken
		return rejoin.Decide(view), nil
	}
	switch {
	case !view.HasData:
	case !local.BelowFloor() || v.standby():
		if view.Own, err = n.cfg.Postgres.Position(ctx); err != nil {
			return rejoin.Plan{}, fmt.Errorf("own position: %w", err)
		}
	case local.FloorTerm == term.ID:
		view.Own = local.Floor // what it may hold beyond was streamed from this very primary
	default:
		// It cannot be opened, so nobody knows how far it had come with another primary.
		return rejoin.Plan{Action: rejoin.Clone, Why: "the copy is below its floor and its source is gone"}, nil
	}
	return rejoin.Decide(view), nil
}

// startFollowing binds the node to the term and points the server at its
// primary. The pledge comes first: after it the node can only go forward.
func (n *Node) startFollowing(ctx context.Context, v look, term record.Term, up pg.Upstream) error {
	if err := n.pledgeTerm(v, term); err != nil {
		return err
	}
	if n.memory.State().BelowFloor() && !v.standby() {
		n.following, n.question, n.noRewind = following{term: term.ID, upstream: up}, question{}, ""
		return n.startStandby(ctx, v, up)
	}
	err := n.cfg.Effects.run("follow/point", func() error { return n.cfg.Postgres.Follow(ctx, up) })
	if err != nil {
		return fmt.Errorf("follow %s: %w", up.Address(), err)
	}
	n.following, n.question, n.noRewind = following{term: term.ID, upstream: up}, question{}, ""
	n.tellRejoin(RejoinInfo{Term: term.ID, Action: string(rejoin.Follow), From: term.Primary})
	n.cfg.Logger.InfoContext(ctx, "following", "term", term.ID, "primary", term.Primary, "timeline", term.Timeline, "as", up.Name)
	return nil
}

func (n *Node) pledgeTerm(v look, term record.Term) error {
	return n.cfg.Effects.run("follow/pledge", func() error {
		return n.memory.Update(func(s *LocalState) {
			s.SystemID = v.records.Initialize.Value
			s.bind(term.ID, v.records.Failover.Value.Nonce)
		})
	})
}

// ask makes the question part of what the node publishes: is its copy needed?
// The server is fenced, so what the primary reads after this was never streamed
// to it.
func (n *Node) ask(term record.Term) error {
	if n.question.term == term.ID && n.question.nonce != "" {
		return nil
	}
	nonce, err := newNonce(n.cfg.Rand)
	if err != nil {
		return err
	}
	n.question = question{term: term.ID, nonce: questionPrefix(term.ID) + nonce}
	return nil
}

// questionPrefix makes a question one of this term: what was asked of an
// earlier primary may have been answered by it.
func questionPrefix(term uint64) string { return strconv.FormatUint(term, 10) + "-" }

// rebuild makes the data a copy of the primary's, by rewind or clone. Before
// the first byte is changed the records are read again, and the local state
// says durably that the data is not to be trusted.
func (n *Node) rebuild(ctx context.Context, v look, term record.Term, up pg.Upstream, plan rejoin.Plan) error {
	if plan.Action == rejoin.Clone || !v.stopped() {
		n.dropAlive(ctx)
	}
	if err := n.askAgain(ctx, term); err != nil {
		return err
	}
	if v.data == role.DataPresent {
		if err := n.stop(ctx, pg.StopFast); err != nil {
			return err
		}
	}
	if err := n.beginCopy(v, term, plan); err != nil {
		return err
	}
	n.cfg.Logger.InfoContext(ctx, "rebuilding", "how", string(plan.Action), "from", term.Primary, "term", term.ID, "why", plan.Why)
	var floor pg.Position
	err := n.cfg.Effects.run("rejoin/"+string(plan.Action), func() (err error) {
		if plan.Action == rejoin.Rewind {
			floor, err = n.cfg.Postgres.Rewind(ctx, up)
		} else {
			floor, err = n.cfg.Postgres.Clone(ctx, up)
		}
		return err
	})
	n.tellRejoin(RejoinInfo{Term: term.ID, Action: string(plan.Action), From: term.Primary, Floor: floor, Err: err})
	if errors.Is(err, pg.ErrRewindImpossible) {
		n.noRewind = err.Error()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s from %s: %w", plan.Action, term.Primary, err), n.abandonCopy(ctx, plan))
	}
	err = n.memory.Update(func(s *LocalState) {
		s.Copying, s.Floor, s.FloorTerm, s.Published = false, floor, term.ID, pg.Position{}
	})
	if err != nil {
		return err
	}
	up.Name = n.streamName()
	n.following, n.question = following{term: term.ID, upstream: up}, question{}
	n.noRewind, n.broken, n.turns = "", "", 0
	return n.startStandby(ctx, v, up)
}

// askAgain is the last look before something is destroyed: the same term is
// still in office and no election is open.
func (n *Node) askAgain(ctx context.Context, term record.Term) error {
	asked, cancel := n.request(ctx, "reading the store")
	defer cancel()
	records, err := ReadRecords(asked, n.cfg.Store, n.keys)
	if err != nil {
		return err
	}
	now, err := records.InOffice()
	if err != nil {
		return err
	}
	if now.ID != term.ID {
		return fmt.Errorf("term %d has ended, %d is in office", term.ID, now.ID)
	}
	return nil
}

// beginCopy makes it durable that the data is about to change. A clone is a new
// life, which has pledged the highest election before it meets any primary; a
// rewind keeps the life.
func (n *Node) beginCopy(v look, term record.Term, plan rejoin.Plan) error {
	incarnation := n.memory.State().Incarnation
	if plan.Action == rejoin.Clone {
		nonce, err := newNonce(n.cfg.Rand)
		if err != nil {
			return err
		}
		incarnation = nonce[:8]
	}
	return n.cfg.Effects.run("rejoin/begin", func() error {
		return n.memory.Update(func(s *LocalState) {
			s.SystemID, s.Creating = v.records.Initialize.Value, false
			s.bind(term.ID, v.records.Failover.Value.Nonce)
			s.Copying = true
			if s.Incarnation != incarnation {
				s.Incarnation, s.Published, s.Floor = incarnation, pg.Position{}, pg.Position{}
			}
		})
	})
}

// abandonCopy takes back beginCopy for a rewind that has failed before it
// changed anything: the data is what it was.
func (n *Node) abandonCopy(ctx context.Context, plan rejoin.Plan) error {
	if plan.Action != rejoin.Rewind {
		return nil
	}
	if _, err := n.cfg.Postgres.OnDisk(ctx); err != nil {
		return nil //nolint:nilerr // the data was changed: it stays marked, and is cloned
	}
	return n.memory.Update(func(s *LocalState) { s.Copying = false })
}

func (n *Node) tellRejoin(info RejoinInfo) {
	if n.cfg.Events.Rejoin != nil {
		n.cfg.Events.Rejoin(info)
	}
}
