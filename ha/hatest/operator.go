package hatest

import (
	"context"
	"errors"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// operatorHost is the name of the machine at which operators sit, for links.
const operatorHost = "operator"

// Operate runs a program as an operator would: on a machine of its own, called
// "operator", with a connection to the store that can be cut like any other.
// Several can run at once. Env has no Disk, no Peers and no Postgres.
func (w *World) Operate(program Agent) {
	w.operate(program)
	w.settle()
}

func (w *World) operate(program Agent) {
	w.operateAs(func(ctx context.Context, _ *agent, env Env) error { return program(ctx, env) })
}

func (w *World) operateAs(program func(context.Context, *agent, Env) error) {
	a := w.host(operatorHost).newAgent()
	a.run(func(ctx context.Context, env Env) error { return program(ctx, a, env) }, a.env())
}

// desk is what an operator has: the commands, which need the store only, and
// tools that write into the store whatever one likes.
type desk struct {
	agent *agent
	env   Env
	keys  record.Keys
	cmd   *ha.Operator
}

func newDesk(a *agent, env Env, keys record.Keys, timing ha.Timing) (*desk, error) {
	cmd, err := ha.NewOperator(ha.OperatorConfig{
		Store: env.Store, Keys: keys, Timing: timing, Clock: env.Clock, Wall: env.Wall, Rand: env.Rand, Logger: env.Logger,
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it was
	}
	return &desk{agent: a, env: env, keys: keys, cmd: cmd}, nil
}

// patienceAtDesk is how long an operator goes on trying.
const patienceAtDesk = 30 * time.Second

// insist gives a command again and again until it is done or refused: what an
// operator does when it says that the store did not answer.
func (d *desk) insist(ctx context.Context, command func(context.Context) error) error {
	began := d.env.Clock.Now()
	for {
		err := command(ctx)
		if err == nil || errors.Is(err, ha.ErrRefused) || errors.Is(err, ErrDead) || d.env.Clock.Since(began) > patienceAtDesk {
			return err
		}
		if err := timectx.Sleep(ctx, d.env.Clock, 500*time.Millisecond); err != nil {
			return err //nolint:wrapcheck // says what it was
		}
	}
}

// switchover asks the present primary to hand over to a node, or to the best, and
// watches it do so.
func (d *desk) switchover(ctx context.Context, to string) error {
	var id string
	err := d.insist(ctx, func(ctx context.Context) (err error) {
		id, err = d.cmd.ScheduleSwitchover(ctx, ha.SwitchoverRequest{To: to, By: d.agent.name})
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := timectx.With(ctx, d.env.Clock, d.cmd.SwitchoverBound(), "watching a switchover")
	defer cancel()
	result, err := d.cmd.AwaitSwitchover(ctx, id, nil)
	d.env.Logger.Info("switchover watched", "phase", string(result.Phase), "leader", result.Leader, "reason", result.Reason, "error", err)
	return nil
}

// cancel calls a switchover off.
func (d *desk) cancel(ctx context.Context) error {
	return d.insist(ctx, func(ctx context.Context) error { return d.cmd.CancelSwitchover(ctx, "", d.agent.name) })
}

// maintenance turns it on, or asks for its end.
func (d *desk) maintenance(ctx context.Context, on bool) error {
	return d.insist(ctx, func(ctx context.Context) error {
		if on {
			return d.cmd.EnableMaintenance(ctx, d.agent.name)
		}
		return d.cmd.DisableMaintenance(ctx)
	})
}

// rubbish are records of a switchover as nobody should write them.
var rubbish = map[string]func(now record.Cluster) (phase, value string){
	"null": func(record.Cluster) (phase, value string) {
		return "scheduled", `{"hostname": null, "timeline": null, "destination": null}`
	},
	"host": func(now record.Cluster) (phase, value string) {
		return "scheduled", string(record.Encode(record.Switchover{Hostname: "nobody", Timeline: now.Timeline.Value}))
	},
	"timeline": func(now record.Cluster) (phase, value string) {
		return "scheduled", string(record.Encode(record.Switchover{Hostname: now.Leader.Holder, Timeline: now.Timeline.Value + pg.Timeline(7)}))
	},
	"phase": func(now record.Cluster) (phase, value string) {
		return "dancing", string(record.Encode(record.Switchover{Hostname: now.Leader.Holder}))
	},
	"json":   func(record.Cluster) (phase, value string) { return "scheduled", `{"hostname": "a", ` },
	"newer":  func(record.Cluster) (phase, value string) { return "scheduled", `{"format": 99, "hostname": "a"}` },
	"middle": func(record.Cluster) (phase, value string) { return "stopping", `{"hostname": "a"}` },
	"half":   func(record.Cluster) (phase, value string) { return "committed", "" },
	"failed": func(record.Cluster) (phase, value string) {
		return "failed", `{"reason": "called off, however far it had come"}`
	},
	"empty": func(record.Cluster) (phase, value string) { return "", "" },
}

// deletedLocks are the locks whose keys an operator may delete. A plan that says
// "leader" would mean a host.
var deletedLocks = map[string]func(record.Keys) string{
	"leadership": record.Keys.Leader,
	"manager":    record.Keys.EpochManager,
	"switchover": record.Keys.SwitchoverLock,
}

// deleteLock deletes the key of a lock, whoever holds it.
func (d *desk) deleteLock(ctx context.Context, name string) error {
	ctx, cancel := timectx.With(ctx, d.env.Clock, 2*time.Second, "deleting a lock")
	defer cancel()
	_, err := d.env.Store.Commit(ctx, dcs.Txn{Then: []dcs.Op{{Key: deletedLocks[name](d.keys), Delete: true}}})
	return err //nolint:wrapcheck // says what it was
}

// garbage writes rubbish over the records of a switchover, whatever they are.
func (d *desk) garbage(ctx context.Context, kind string) error {
	return d.insist(ctx, func(ctx context.Context) error {
		ctx, cancel := timectx.With(ctx, d.env.Clock, 2*time.Second, "writing rubbish")
		defer cancel()
		now, err := ha.ReadRecords(ctx, d.env.Store, d.keys)
		if err != nil {
			return err //nolint:wrapcheck // says what it was
		}
		phase, value := rubbish[kind](now)
		_, err = d.env.Store.Commit(ctx, dcs.Txn{Then: []dcs.Op{
			{Key: d.keys.SwitchoverState(), Value: []byte(phase)},
			{Key: d.keys.SwitchoverMaster(), Value: []byte(value)},
		}})
		return err //nolint:wrapcheck // says what it was
	})
}
