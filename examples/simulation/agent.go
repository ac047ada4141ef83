// Package simulation is a small agent of one's own and its simulation: several
// machines run it, one at a time hands out ticket numbers, and no number may
// ever be handed out twice.
//
// The agent takes a store and clocks and nothing else, so the same code runs on
// etcd and in package hatest, where one seed is one schedule of delays, losses
// and partitions. simulation_test.go runs it through many schedules,
// and shows that a planted bug is found:
//
//	go test ./examples/simulation
//	go test ./examples/simulation -args -unguarded
package simulation

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
)

// Agent hands out ticket numbers while it holds the lock.
type Agent struct {
	Name   string
	Store  dcs.Store
	Clock  clock.Clock
	Wall   func() time.Time
	Ticket func(number int) // is called for each number

	// Unguarded is the planted bug: the number is written without the lock's
	// fencing token and without the revision that was read.
	Unguarded bool
}

const (
	lockKey = "/tickets/clerk"
	lastKey = "/tickets/last"
	every   = 500 * time.Millisecond
	request = 2 * time.Second
)

// Run works until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	locker, err := ha.NewLocker(ha.LockerConfig{Store: a.Store, Clock: a.Clock, Wall: a.Wall})
	if err != nil {
		return fmt.Errorf("agent %s: %w", a.Name, err)
	}
	defer func() { _ = locker.Close(context.WithoutCancel(ctx)) }()
	for ctx.Err() == nil {
		err := locker.Hold(ctx, lockKey, []byte(a.Name), a.serve)
		if errors.Is(err, ha.ErrClosed) {
			return err //nolint:wrapcheck // says what it is about
		}
	}
	return nil
}

// serve hands out numbers while the lease lasts.
func (a *Agent) serve(ctx context.Context, lease *ha.Lease) error {
	for {
		timer := a.Clock.Timer(every)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		if err := a.next(ctx, lease); err != nil && lease.Check() != nil {
			return err
		}
	}
}

// next hands out one number. When the outcome of the write is unknown the
// number is not handed out: it is lost, and the next one is read from the store.
//
// It has a deadline: without one the simulation finds, in seed 85, a clerk that
// waits for ever for a lost reply while its lock is renewed.
func (a *Agent) next(ctx context.Context, lease *ha.Lease) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer a.Clock.AfterFunc(request, cancel).Stop()
	kv, err := a.Store.Get(ctx, lastKey)
	if err != nil && !errors.Is(err, dcs.ErrNotFound) {
		return fmt.Errorf("read the last number: %w", err)
	}
	last, _ := strconv.Atoi(string(kv.Value)) // 0 before the first one
	txn := dcs.Txn{
		If:   []dcs.Guard{lease.Guard(), dcs.At(lastKey, kv.Revision)},
		Then: []dcs.Op{{Key: lastKey, Value: []byte(strconv.Itoa(last + 1))}},
	}
	if a.Unguarded {
		txn.If = nil
	}
	if _, err := a.Store.Commit(ctx, txn); err != nil {
		return fmt.Errorf("write number %d: %w", last+1, err)
	}
	a.Ticket(last + 1)
	return nil
}
