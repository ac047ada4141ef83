package hatest

import (
	"context"
	"errors"
	"fmt"
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

// desk is what an operator has: the command line, which is a client of the
// store, and tools that write into the store whatever one likes.
type desk struct {
	agent *agent
	env   Env
	keys  record.Keys
}

// errRefused is why a command ends that does not write anything.
var errRefused = errors.New("refused")

// patienceAtDesk is how long a command goes on trying.
const patienceAtDesk = 30 * time.Second

// insist does something with the records again and again until it is done or
// refused: what an operator does whose command says that the store did not
// answer.
func (d *desk) insist(ctx context.Context, do func(context.Context, record.Cluster) error) error {
	began := d.env.Clock.Now()
	for {
		err := d.try(ctx, do)
		if err == nil || errors.Is(err, errRefused) || errors.Is(err, ErrDead) || d.env.Clock.Since(began) > patienceAtDesk {
			return err
		}
		if err := timectx.Sleep(ctx, d.env.Clock, 500*time.Millisecond); err != nil {
			return err //nolint:wrapcheck // says what it was
		}
	}
}

func (d *desk) try(ctx context.Context, do func(context.Context, record.Cluster) error) error {
	ctx, cancel := timectx.With(ctx, d.env.Clock, 2*time.Second, "an operator's command")
	defer cancel()
	records, err := ha.ReadRecords(ctx, d.env.Store, d.keys)
	if err != nil {
		return err //nolint:wrapcheck // says what it was
	}
	return do(ctx, records)
}

func (d *desk) commit(ctx context.Context, txn dcs.Txn) error {
	_, err := d.env.Store.Commit(ctx, txn)
	return err //nolint:wrapcheck // says what it was
}

// switchoverTxn writes both records of a switchover where nobody has written
// them since they were read.
func (d *desk) switchoverTxn(now record.Cluster, phase record.SwitchoverPhase, value record.Switchover) dcs.Txn {
	value.Format = record.Format
	return dcs.Txn{
		If: []dcs.Guard{now.SwitchoverState.Guard(d.keys.SwitchoverState()), now.Switchover.Guard(d.keys.SwitchoverMaster())},
		Then: []dcs.Op{
			{Key: d.keys.SwitchoverState(), Value: []byte(phase)},
			{Key: d.keys.SwitchoverMaster(), Value: record.Encode(value)},
		},
	}
}

// switchover asks the present primary to hand over to a node, or to the best.
func (d *desk) switchover(ctx context.Context, to string) error {
	id, err := d.nonce()
	if err != nil {
		return err
	}
	return d.insist(ctx, func(ctx context.Context, now record.Cluster) error {
		switch {
		case now.Switchover.Value.ID == id:
			return nil // an attempt of which no reply came
		case !now.Leader.Held():
			return fmt.Errorf("%w: nobody leads", errRefused)
		case now.SwitchoverState.Value.Open():
			return fmt.Errorf("%w: another switchover is %s", errRefused, now.SwitchoverState.Value)
		}
		return d.commit(ctx, d.switchoverTxn(now, record.SwitchoverScheduled, record.Switchover{
			Hostname: now.Leader.Holder, Timeline: now.Timeline.Value, Destination: to, ID: id,
			By: d.env.Name, At: d.env.Wall().UTC().Format(time.RFC3339),
		}))
	})
}

// cancel calls a switchover off, however far it has come.
func (d *desk) cancel(ctx context.Context) error {
	return d.insist(ctx, func(ctx context.Context, now record.Cluster) error {
		if !now.SwitchoverState.Value.Open() {
			return fmt.Errorf("%w: there is no switchover", errRefused)
		}
		value := now.Switchover.Value
		value.Reason = "called off"
		return d.commit(ctx, d.switchoverTxn(now, record.SwitchoverFailed, value))
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
	"empty":  func(record.Cluster) (phase, value string) { return "", "" },
}

// garbage writes rubbish over the records of a switchover, whatever they are.
func (d *desk) garbage(ctx context.Context, kind string) error {
	return d.insist(ctx, func(ctx context.Context, now record.Cluster) error {
		phase, value := rubbish[kind](now)
		return d.commit(ctx, dcs.Txn{Then: []dcs.Op{
			{Key: d.keys.SwitchoverState(), Value: []byte(phase)},
			{Key: d.keys.SwitchoverMaster(), Value: []byte(value)},
		}})
	})
}

// maintenance turns it on, or asks for its end.
func (d *desk) maintenance(ctx context.Context, on bool) error {
	return d.insist(ctx, func(ctx context.Context, now record.Cluster) error {
		mode := now.Maintenance.Mode
		txn := dcs.Txn{If: []dcs.Guard{mode.Guard(d.keys.Maintenance())}}
		switch {
		case on && mode.Value == record.MaintenanceOn, !on && mode.Value != record.MaintenanceOn:
			return nil
		case !on:
			txn.Then = []dcs.Op{{Key: d.keys.Maintenance(), Value: []byte(record.MaintenanceLeaving)}}
			return d.commit(ctx, txn)
		}
		txn.If = append(txn.If, now.Maintenance.Since.Guard(d.keys.MaintenanceTS()), now.Maintenance.Master.Guard(d.keys.MaintenanceMaster()))
		txn.Then = []dcs.Op{
			{Key: d.keys.Maintenance(), Value: []byte(record.MaintenanceOn)},
			{Key: d.keys.MaintenanceTS(), Value: []byte(d.env.Wall().UTC().Format(time.RFC3339))},
			{Key: d.keys.MaintenanceMaster(), Value: []byte(now.Quorum.Value.Primary.Node)},
		}
		return d.commit(ctx, txn)
	})
}

func (d *desk) nonce() (string, error) {
	var b [4]byte
	if _, err := d.env.Rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("an operator's id: %w", err)
	}
	return fmt.Sprintf("%x", b), nil
}
