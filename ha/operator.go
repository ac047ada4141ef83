package ha

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/timectx"
)

// The errors of an Operator to branch on, by errors.Is, beside those of dcs.
var (
	// ErrRefused says that what was asked for is not possible now, and why.
	// Surely nothing was written.
	ErrRefused = errors.New("refused")
	// ErrOvertaken says that what is waited for cannot come any more, because
	// somebody has asked for something else since.
	ErrOvertaken = errors.New("overtaken")
)

// operatorTries is how often a write is made anew, from records read again,
// when somebody else has written between the read and the write.
const operatorTries = 5

// OperatorConfig is what an Operator needs. Store and Keys are required.
type OperatorConfig struct {
	Store dcs.Store
	Keys  record.Keys

	Timing Timing           // that of the cluster: it says for how long nodes wait
	Clock  clock.Clock      // nil: the real one
	Wall   func() time.Time // nil: the real one; written into records, for people
	Rand   io.Reader        // ids; nil: crypto/rand
	Logger *slog.Logger     // nil: discarded
}

// Operator writes into the records what an operator asks of a cluster, and
// follows what the nodes make of it: switchover and maintenance. It needs no
// node and no server, only the store, so that a command line, a REST API or
// somebody's own agent can use it anywhere.
//
// Every write is one transaction guarded by what was read before it. An outcome
// is one of three: nil says that it was written; an error for which
// dcs.SurelyNotDone is true, or ErrRefused, says that it was not and will not
// be; dcs.ErrAmbiguous says that nobody can tell yet. A lost reply is resolved
// where that is possible: the write is first made impossible, and only then
// looked for.
//
// An Operator has no goroutine of its own between two calls, and need not be
// closed. It is safe for use by several goroutines at once.
type Operator struct{ cfg OperatorConfig }

// NewOperator checks the configuration. It does not talk to the store.
func NewOperator(cfg OperatorConfig) (*Operator, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("operator: no Store")
	case cfg.Keys == (record.Keys{}):
		return nil, errors.New("operator: Keys is required; see record.NewKeys")
	}
	cfg.Timing = cfg.Timing.Defaults()
	if err := cfg.Timing.Validate(); err != nil {
		return nil, fmt.Errorf("operator: %w", err)
	}
	cfg.Clock, cfg.Wall, cfg.Rand, cfg.Logger = realIfNil(cfg.Clock, cfg.Wall, cfg.Rand, cfg.Logger)
	return &Operator{cfg: cfg}, nil
}

// now is the time of day as records have it.
func (o *Operator) now() string { return o.cfg.Wall().UTC().Format(time.RFC3339) }

func (o *Operator) request(ctx context.Context, what string) (context.Context, context.CancelFunc) {
	return timectx.With(ctx, o.cfg.Clock, o.cfg.Timing.Request, what)
}

func (o *Operator) read(ctx context.Context) (record.Cluster, error) {
	ctx, cancel := o.request(ctx, "reading the records")
	defer cancel()
	return ReadRecords(ctx, o.cfg.Store, o.cfg.Keys)
}

// commit makes one attempt. An error that does not prove that nothing was
// written becomes dcs.ErrAmbiguous.
func (o *Operator) commit(ctx context.Context, what string, txn dcs.Txn) error {
	ctx, cancel := o.request(ctx, what)
	defer cancel()
	_, err := o.cfg.Store.Commit(ctx, txn)
	switch {
	case err == nil:
		return nil
	case dcs.SurelyNotDone(err), errors.Is(err, dcs.ErrAmbiguous):
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, dcs.ErrAmbiguous, err)
}

// underLock takes `switchover/lock`, lets write do its work, and lets go. Where
// released is true the lock surely is gone: no transaction that write has
// guarded by it can land any more.
func (o *Operator) underLock(ctx context.Context, by string, write func(context.Context, *Lease) error) (released bool, err error) {
	t := o.cfg.Timing
	locker, err := NewLocker(LockerConfig{
		Store: o.cfg.Store, TTL: t.TTL, RenewEvery: t.RenewEvery, Margin: t.Margin, Request: t.Request, MaxDrift: t.MaxDrift,
		Clock: o.cfg.Clock, Wall: o.cfg.Wall, Logger: o.cfg.Logger,
	})
	if err != nil {
		return true, err
	}
	ending := context.WithoutCancel(ctx)
	defer func() {
		closing, cancel := o.request(ending, "closing the session")
		defer cancel()
		if err := locker.Close(closing); err != nil {
			o.cfg.Logger.DebugContext(ctx, "session not closed, it will expire", "error", err)
		}
	}()
	lease, err := o.takeLock(ctx, locker, by)
	if err != nil {
		return true, err
	}
	err = write(ctx, lease)
	if releaseErr := lease.Release(ending); releaseErr != nil {
		o.cfg.Logger.WarnContext(ctx, "lock not released, it will expire", "key", lease.Key(), "error", releaseErr)
		return false, err
	}
	return true, err
}

// takeLock waits for the lock no longer than a dead holder could keep it.
func (o *Operator) takeLock(ctx context.Context, locker *Locker, by string) (*Lease, error) {
	key := o.cfg.Keys.SwitchoverLock()
	waiting, cancel := timectx.With(ctx, o.cfg.Clock, 2*o.cfg.Timing.TTL, "waiting for the lock")
	defer cancel()
	lease, err := locker.Acquire(waiting, key, []byte(cmp.Or(by, "operator")))
	if err == nil || ctx.Err() != nil {
		return lease, err
	}
	if holder, readErr := locker.Holder(ctx, key); readErr == nil {
		return nil, fmt.Errorf("%w: %.100q holds %s and asks for something at this moment; try again", ErrRefused, holder.Value, key)
	}
	return nil, err
}

// follow hands the records to look when something under the cluster's keys has
// changed, and at least once per Observe, until look reports the end. It returns
// the cause of ctx, or why the store will never answer again. Records that
// cannot be read now are told to look as an error.
func (o *Operator) follow(ctx context.Context, look func(record.Cluster, error) (done bool)) error {
	news := make(chan struct{}, 1)
	poke := func() {
		select {
		case news <- struct{}{}:
		default:
		}
	}
	watching, stop := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() {
		for range o.cfg.Store.Watch(watching, o.cfg.Keys.Prefix()) { // a hint: what counts is read
			poke()
		}
	})
	defer wait.Wait()
	defer stop()
	defer context.AfterFunc(ctx, poke)()
	for {
		now, err := o.read(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && permanent(err):
			return err
		case look(now, err):
			return nil
		}
		timer := o.cfg.Clock.AfterFunc(o.cfg.Timing.Observe, poke)
		<-news
		timer.Stop()
	}
}
