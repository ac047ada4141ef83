package ha

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/role"
	"github.com/pghad/pghad/pg"
)

// bootstrap creates the cluster: a new data directory, or the one that there is made
// this node's own, and then all its records and the leader lock in one transaction,
// guarded by the absence of each. If another node was faster, new data holds nothing
// and is replaced by a copy; existing data stays, and is of a foreign cluster or
// returns to its own.
func (n *Node) bootstrap(ctx context.Context, v look) (time.Duration, error) {
	if v.data == role.DataPresent && !v.stopped() {
		return 0, n.stop(ctx, pg.StopFast)
	}
	switch {
	case n.cfg.Existing:
		if err := n.takeIn(ctx); err != nil {
			return 0, err
		}
	case v.data != role.DataPresent:
		return 0, n.initData(ctx)
	}
	self, timeline := n.self(), max(1, v.disk.Timeline)
	nonce, err := newNonce(n.cfg.Rand)
	if err != nil {
		return 0, err
	}
	recorded := quorum.Config{Mode: n.cfg.Mode, Primary: self}
	term := record.Term{ID: 1, Primary: n.cfg.Name, Timeline: timeline, At: n.cfg.Wall().UTC().Format(time.RFC3339)}
	state := record.FailoverState{
		Format: record.Format, ID: 1, Nonce: nonce, Phase: record.PhaseTaken, Manager: n.cfg.Name,
		Electorate: []quorum.Member{self}, Winner: self, Reason: "the cluster was created",
	}
	txn := dcs.Txn{Then: []dcs.Op{
		{Key: n.keys.Initialize(), Value: []byte(v.disk.SystemID)},
		{Key: n.keys.Quorum(), Value: record.Encode(record.Quorum{Format: record.Format, Version: 1, Nonce: nonce, Config: recorded})},
		{Key: n.keys.FailoverState(), Value: record.Encode(state)},
		{Key: n.keys.History(), Value: record.Encode(record.History{term})},
		{Key: n.keys.Timeline(), Value: []byte(term.Timeline.String())},
		{Key: n.keys.CurrentPromotingHost(), Value: record.Encode(record.Promoting{Host: n.cfg.Name, Term: 1})},
	}}
	for _, op := range txn.Then {
		txn.If = append(txn.If, dcs.Guard{Key: op.Key, Absent: true})
	}
	var lease *Lease
	asked, cancel := n.request(ctx, "creating the cluster's records")
	defer cancel()
	err = n.cfg.Effects.run("bootstrap/records", func() (err error) {
		lease, err = n.locker.TryAcquireWith(asked, n.keys.Leader(), []byte(n.cfg.Name), txn)
		return err
	})
	if errors.Is(err, dcs.ErrConflict) || errors.Is(err, ErrHeld) {
		n.why = "another node has created the cluster"
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("create the cluster's records: %w", err)
	}
	err = n.memory.Update(func(s *LocalState) {
		s.SystemID, s.Creating = v.disk.SystemID, false
		s.bind(state.ID, state.Nonce)
	})
	if err != nil {
		_ = lease.Release(ctx) // the cluster exists; this node returns to it by an election
		return 0, err
	}
	n.cfg.Logger.InfoContext(ctx, "cluster created", "system", v.disk.SystemID)
	n.enterOffice(ctx, &Office{Term: 1, Nonce: nonce, Lease: lease, Timeline: timeline, Recorded: recorded})
	return 0, nil
}

// takeIn makes existing data this node's own. It is no draft: nothing may throw it
// away.
func (n *Node) takeIn(ctx context.Context) error {
	nonce, err := newNonce(n.cfg.Rand)
	if err != nil {
		return err
	}
	err = n.memory.Update(func(s *LocalState) {
		if s.Incarnation == "" {
			s.Incarnation = nonce[:8]
		}
	})
	if err != nil {
		return err
	}
	if err := n.cfg.Effects.run("bootstrap/init", func() error { return n.cfg.Postgres.Init(ctx) }); err != nil {
		return fmt.Errorf("take in the data directory: %w", err)
	}
	return nil
}

// initData makes the data directory. That it may be thrown away again is
// durable before it exists.
func (n *Node) initData(ctx context.Context) error {
	nonce, err := newNonce(n.cfg.Rand)
	if err != nil {
		return err
	}
	if err := n.memory.Update(func(s *LocalState) { s.Creating, s.Incarnation = true, nonce[:8] }); err != nil {
		return err
	}
	if err := n.cfg.Effects.run("bootstrap/init", func() error { return n.cfg.Postgres.Init(ctx) }); err != nil {
		return fmt.Errorf("initialise the data directory: %w", err)
	}
	return nil
}
