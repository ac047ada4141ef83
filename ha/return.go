package ha

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/record"
)

// mayReturn says whether the recorded primary, whose server runs, may end the
// absence of a leader by itself, without an election: whatever was acknowledged
// in its term is on it. Nobody may be about to take office.
func (e *Elector) mayReturn(now record.Cluster) error {
	state := now.Failover.Value
	switch {
	case now.Leader.Held():
		return fmt.Errorf("%s holds `leader`", now.Leader.Holder)
	case now.Quorum.Value.Primary != e.self():
		return fmt.Errorf("the recorded primary is %s", now.Quorum.Value.Primary)
	case state.Phase == record.PhaseWon:
		return fmt.Errorf("%s has won election %d", state.Winner, state.ID)
	}
	if _, err := lastTerm(now); err != nil {
		return err
	}
	return nil
}

// lastTerm is the term of the recorded primary: the newest one that was taken.
// A term that is only reserved, for a target that has not taken over, is none.
func lastTerm(now record.Cluster) (record.Term, error) {
	for _, term := range slices.Backward(now.History.Value) {
		if term.ID <= now.Failover.Value.ID && term.Primary == now.Quorum.Value.Primary.Node {
			return term, nil
		}
	}
	return record.Term{}, errors.New("`history` has no term of the recorded primary")
}

// Return gives `leader` back to the recorded primary, whose server runs and has
// never stopped being one, after the lock was lost together with the store. It is
// one transaction: nobody holds the lock, nobody has won an election. It is a new
// term on the same timeline: the id of an open election, so that nodes which are
// fenced for that follow again, or a new one.
func (e *Elector) Return(ctx context.Context, now record.Cluster) (*Office, error) {
	if err := e.mayReturn(now); err != nil {
		return nil, fmt.Errorf("return to office: %w", err)
	}
	last, err := lastTerm(now)
	if err != nil {
		return nil, err
	}
	state, local := now.Failover.Value, e.cfg.Memory.State()
	open := state.Phase == record.PhaseFencing && !local.bars(state.ID, state.Nonce)
	after := state.ID
	if !open {
		id, nonce, err := e.ownNumber(now)
		if err != nil {
			return nil, err
		}
		state = record.FailoverState{
			Format: record.Format, ID: id, Nonce: nonce, Manager: e.cfg.Name, Electorate: now.Quorum.Value.D(),
		}
	}
	state.Phase, state.Winner, state.Reason = record.PhaseTaken, e.self(), "the recorded primary had never stopped"
	err = e.cfg.Effects.run("office/pledge", func() error {
		return e.cfg.Memory.Update(func(s *LocalState) {
			if open {
				s.bind(state.ID, state.Nonce)
			} else {
				s.bindOwn(state.ID, state.Nonce, after)
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("return to office: %w", err)
	}
	office, txn, err := e.sameTimeline(now, state, last)
	if err != nil {
		return nil, err
	}
	err = e.cfg.Effects.run("office/return", func() error {
		office.Lease, err = e.cfg.Locker.TryAcquireWith(ctx, e.cfg.Keys.Leader(), []byte(e.cfg.Name), txn)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("return to office in term %d: %w", state.ID, err)
	}
	e.cfg.Logger.InfoContext(ctx, "returned to office", "term", state.ID, "timeline", last.Timeline)
	e.tell(ElectionInfo{ID: state.ID, Step: "returned", Winner: state.Winner, Why: state.Reason})
	return office, nil
}

// ownNumber is a number for a term that needs no election, with its nonce: above
// every election and every pledge seen. One that was made up for an earlier
// attempt is used again.
func (e *Elector) ownNumber(now record.Cluster) (id uint64, nonce string, err error) {
	local, above := e.cfg.Memory.State(), max(now.Failover.Value.ID, now.HighestPledge())
	if local.PledgeOwn && (local.Pledge > above || local.Pledge == above && local.Pledge > now.Failover.Value.ID) {
		return local.Pledge, local.PledgeNonce, nil
	}
	nonce, err = newNonce(e.cfg.Rand)
	return max(above, local.Pledge) + 1, nonce, err
}

// sameTimeline is a term that goes on with the timeline of the last one, and the
// transaction that records it. `quorum` is rewritten as it is, so that a write of
// the office before can no longer land.
func (e *Elector) sameTimeline(now record.Cluster, state record.FailoverState, last record.Term) (*Office, dcs.Txn, error) {
	nonce, err := newNonce(e.cfg.Rand)
	if err != nil {
		return nil, dcs.Txn{}, err
	}
	keys, next := e.cfg.Keys, now.Quorum.Value.Next(nonce, now.Quorum.Value.Config)
	term := record.Term{
		ID: state.ID, Primary: e.cfg.Name, Timeline: last.Timeline, At: e.cfg.Wall().UTC().Format(time.RFC3339),
	}
	txn := dcs.Txn{
		If: []dcs.Guard{
			now.Failover.Guard(keys.FailoverState()),
			now.Quorum.Guard(keys.Quorum()),
			now.History.Guard(keys.History()),
			now.Promoting.Guard(keys.CurrentPromotingHost()),
		},
		Then: []dcs.Op{
			{Key: keys.FailoverState(), Value: record.Encode(state)},
			{Key: keys.Quorum(), Value: record.Encode(next)},
			{Key: keys.History(), Value: record.Encode(now.History.Value.With(term))},
			{Key: keys.CurrentPromotingHost(), Value: record.Encode(record.Promoting{Host: e.cfg.Name, Term: state.ID})},
		},
	}
	return &Office{Term: state.ID, Nonce: state.Nonce, Timeline: last.Timeline, Recorded: next.Config}, txn, nil
}

// TakeUp goes on with a term whose `leader` key stands, by the token and nonce
// that this node keeps on its disk: its agent was restarted, or its lease ended
// while the store was away. Its server runs as the primary of that term. The key
// moves to the Locker's session, and `quorum` is rewritten in the same
// transaction.
func (e *Elector) TakeUp(ctx context.Context, now record.Cluster, mark OfficeMark) (*Office, error) {
	state, local := now.Failover.Value, e.cfg.Memory.State()
	term, err := now.InOffice()
	switch {
	case err != nil:
		return nil, fmt.Errorf("take up term %d: %w", mark.Term, err)
	case now.Leader.Created != mark.Token || state.ID != mark.Term || state.Nonce != mark.Nonce:
		return nil, fmt.Errorf("take up term %d: %w: `leader` is another holding", mark.Term, ErrFenced)
	case now.Quorum.Value.Primary != e.self():
		return nil, fmt.Errorf("take up term %d: %w: the recorded primary is %s", mark.Term, ErrFenced, now.Quorum.Value.Primary)
	case local.Pledge != mark.Term:
		return nil, fmt.Errorf("take up term %d: %w: this node has pledged %d", mark.Term, ErrPledged, local.Pledge)
	}
	nonce, err := newNonce(e.cfg.Rand)
	if err != nil {
		return nil, err
	}
	keys, next := e.cfg.Keys, now.Quorum.Value.Next(nonce, now.Quorum.Value.Config)
	office := &Office{Term: mark.Term, Nonce: mark.Nonce, Timeline: term.Timeline, Recorded: next.Config}
	txn := dcs.Txn{
		If:   []dcs.Guard{now.Failover.Guard(keys.FailoverState()), now.Quorum.Guard(keys.Quorum())},
		Then: []dcs.Op{{Key: keys.Quorum(), Value: record.Encode(next)}},
	}
	err = e.cfg.Effects.run("office/take-up", func() error {
		office.Lease, err = e.cfg.Locker.Adopt(ctx, keys.Leader(), mark.Token, []byte(e.cfg.Name), txn)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("take up term %d: %w", mark.Term, err)
	}
	e.cfg.Logger.InfoContext(ctx, "term taken up again", "term", mark.Term, "timeline", term.Timeline)
	e.tell(ElectionInfo{ID: mark.Term, Step: "taken up", Winner: state.Winner})
	return office, nil
}
