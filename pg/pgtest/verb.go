package pgtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/pg"
)

// verb is what a recipe can do. Words in capitals stand for names.
type verb struct {
	form string
	now  bool // it neither waits nor takes long
	do   func(ctx context.Context, p *player, args []string) error
}

func (v verb) words() string { return v.form }

// verbs are all that can be done.
var verbs []verb

//nolint:gochecknoinits // verbs refer to the player, which refers to verbs
func init() {
	verbs = append(verbs, controlVerbs()...)
	verbs = append(verbs, replicationVerbs()...)
	verbs = append(verbs, clientVerbs()...)
	verbs = append(verbs, faultVerbs()...)
	verbs = append(verbs, operatorVerbs()...)
	verbs = append(verbs, scriptVerbs()...)
}

// mandate is a warrant that does not end.
type mandate struct{}

func (mandate) Check() error     { return nil }
func (mandate) Until() time.Time { return time.Time{} }

// controlVerbs start, stop and rebuild servers, by their controllers.
func controlVerbs() []verb {
	startPrimary := func(ctx context.Context, p *player, node, setting string) error {
		s, err := pg.ParseSyncSetting(setting)
		if err != nil {
			return err
		}
		return p.control(node).StartPrimary(ctx, mandate{}, s)
	}
	return []verb{
		{form: "start NODE as primary with SETTING...", do: func(ctx context.Context, p *player, a []string) error {
			return startPrimary(ctx, p, a[0], a[1])
		}},
		{form: "start NODE as primary", do: func(ctx context.Context, p *player, a []string) error {
			return startPrimary(ctx, p, a[0], "")
		}},
		{form: "start NODE alone", do: func(ctx context.Context, p *player, a []string) error {
			return p.control(a[0]).StartStandby(ctx, pg.Upstream{})
		}},
		{form: "start NODE from NODE", do: func(ctx context.Context, p *player, a []string) error {
			return p.control(a[0]).StartStandby(ctx, p.upstream(a[0], a[1], a[0], ""))
		}},
		{form: "start NODE from NODE slot SLOT", do: func(ctx context.Context, p *player, a []string) error {
			return p.control(a[0]).StartStandby(ctx, p.upstream(a[0], a[1], a[0], a[2]))
		}},
		{form: "stop NODE MODE", do: func(ctx context.Context, p *player, a []string) error {
			return p.control(a[0]).Stop(ctx, pg.StopMode(a[1]))
		}},
		{form: "yield NODE to NODE", do: func(ctx context.Context, p *player, a []string) error {
			end, err := p.control(a[0]).Yield(ctx, a[1])
			p.marks["end of "+a[0]] = end.LSN
			return err
		}},
		{form: "rewind NODE from NODE", do: func(ctx context.Context, p *player, a []string) error {
			_, err := p.control(a[0]).Rewind(ctx, p.servers.Route(a[0], a[1]))
			return err
		}},
		{form: "clone NODE from NODE", do: func(ctx context.Context, p *player, a []string) error {
			_, err := p.control(a[0]).Clone(ctx, p.servers.Route(a[0], a[1]))
			return err
		}},
		{form: "open NODE", do: func(ctx context.Context, p *player, a []string) error { return p.control(a[0]).OpenGate(ctx) }},
		{form: "check NODE", do: func(ctx context.Context, p *player, a []string) error { return p.control(a[0]).SelfCheck(ctx) }},
	}
}

func (p *player) control(node string) Control { return p.servers.Control(node) }

func (p *player) upstream(node, of, name, slot string) pg.Upstream {
	up := p.servers.Route(node, of)
	up.Name, up.Slot = name, slot
	return up
}

// replicationVerbs are what else controllers do.
func replicationVerbs() []verb {
	follow := func(ctx context.Context, p *player, node, of, name, slot string) error {
		return p.control(node).Follow(ctx, p.upstream(node, of, name, slot))
	}
	return []verb{
		{form: "follow NODE nobody", do: func(ctx context.Context, p *player, a []string) error {
			return p.control(a[0]).Follow(ctx, pg.Upstream{})
		}},
		{form: "follow NODE UPSTREAM", do: func(ctx context.Context, p *player, a []string) error { return follow(ctx, p, a[0], a[1], a[0], "") }},
		{form: "follow NODE UPSTREAM as NAME", do: func(ctx context.Context, p *player, a []string) error {
			return follow(ctx, p, a[0], a[1], a[2], "")
		}},
		{form: "follow NODE UPSTREAM slot SLOT", do: func(ctx context.Context, p *player, a []string) error {
			return follow(ctx, p, a[0], a[1], a[0], a[2])
		}},
		{form: "fence NODE", do: func(ctx context.Context, p *player, a []string) error { return p.control(a[0]).Fence(ctx) }},
		{form: "position of NODE", do: func(ctx context.Context, p *player, a []string) error {
			at, err := p.control(a[0]).Position(ctx)
			if err == nil {
				p.marks["position of "+a[0]] = at.LSN
			}
			return err
		}},
		{form: "promote NODE to TIMELINE", do: func(ctx context.Context, p *player, a []string) error {
			next, err := pg.ParseTimeline(a[1])
			if err == nil {
				_, err = p.control(a[0]).Promote(ctx, mandate{}, next)
			}
			return err
		}},
		{form: "set NODE SETTING...", do: func(ctx context.Context, p *player, a []string) error { return p.set(ctx, a[0], a[1]) }},
		{form: "sync NODE SETTING...", do: func(ctx context.Context, p *player, a []string) error {
			return errors.Join(p.set(ctx, a[0], a[1]), p.control(a[0]).Checkpoint(ctx), p.control(a[0]).Checkpoint(ctx))
		}},
		{form: "checkpoint NODE", do: func(ctx context.Context, p *player, a []string) error { return p.control(a[0]).Checkpoint(ctx) }},
		{form: "drop senders of NODE", do: func(ctx context.Context, p *player, a []string) error {
			return p.control(a[0]).DropSenders(ctx)
		}},
		{form: "slot SLOT on NODE", do: func(ctx context.Context, p *player, a []string) error {
			return p.control(a[1]).EnsureSlots(ctx, []pg.Slot{{Name: a[0]}})
		}},
	}
}

// set puts a setting in force, as far as a new session shows it.
func (p *player) set(ctx context.Context, node, setting string) error {
	if setting == none {
		setting = ""
	}
	s, err := pg.ParseSyncSetting(setting)
	if err != nil {
		return err
	}
	return p.control(node).SetSync(ctx, s)
}

// clientVerbs are what clients do. A row is committed in a session of its own
// name, or in one that was opened before.
func clientVerbs() []verb {
	commit := func(p *player, row, node string, o SessionOptions) error {
		if err := p.servers.Connect(row, node, o); err != nil {
			return err
		}
		return p.servers.Commit(row, row)
	}
	v := []verb{
		{form: "session SESSION on NODE", do: func(_ context.Context, p *player, a []string) error {
			return p.servers.Connect(a[0], a[1], SessionOptions{})
		}},
		{form: "commit ROW in SESSION", do: func(_ context.Context, p *player, a []string) error { return p.servers.Commit(a[1], a[0]) }},
		{form: "commit ROW on NODE", do: func(_ context.Context, p *player, a []string) error { return commit(p, a[0], a[1], SessionOptions{}) }},
		{form: "commit ROW on NODE at LEVEL", do: func(_ context.Context, p *player, a []string) error {
			return commit(p, a[0], a[1], SessionOptions{Level: Level(a[2])})
		}},
		{form: "commit ROW on NODE within TIME", do: func(_ context.Context, p *player, a []string) error {
			d, err := time.ParseDuration(a[2])
			if err != nil {
				return err
			}
			return commit(p, a[0], a[1], SessionOptions{Timeout: d})
		}},
		{form: "cancel SESSION", do: func(_ context.Context, p *player, a []string) error { return p.servers.Cancel(a[0]) }},
		{form: "terminate SESSION", do: func(_ context.Context, p *player, a []string) error { return p.servers.Terminate(a[0]) }},
		{form: "disconnect SESSION", do: func(_ context.Context, p *player, a []string) error { return p.servers.Disconnect(a[0]) }},
		{form: "give up SESSION", do: func(_ context.Context, p *player, a []string) error { return p.servers.GiveUp(a[0]) }},
	}
	return immediate(v)
}

// immediate marks verbs that the player need not wait for.
func immediate(v []verb) []verb {
	for i := range v {
		v[i].now = true
	}
	return v
}

// faultVerbs break things.
func faultVerbs() []verb {
	both := func(p *player, a, b string) error {
		return errors.Join(p.servers.Cut(a, b), p.servers.Cut(b, a))
	}
	v := []verb{
		{form: "freeze sender NAME of NODE", do: func(_ context.Context, p *player, a []string) error {
			return p.servers.Freeze(a[1], "sender "+a[0])
		}},
		{form: "thaw sender NAME of NODE", do: func(_ context.Context, p *player, a []string) error {
			return p.servers.Thaw(a[1], "sender "+a[0])
		}},
		{form: "freeze backend SESSION of NODE", do: func(_ context.Context, p *player, a []string) error {
			return p.servers.Freeze(a[1], "backend "+a[0])
		}},
		{form: "thaw backend SESSION of NODE", do: func(_ context.Context, p *player, a []string) error {
			return p.servers.Thaw(a[1], "backend "+a[0])
		}},
		{form: "freeze PROCESS of NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.Freeze(a[1], a[0]) }},
		{form: "thaw PROCESS of NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.Thaw(a[1], a[0]) }},
		{form: "kill backend SESSION of NODE", do: func(_ context.Context, p *player, a []string) error {
			return p.servers.Kill(a[1], "backend "+a[0])
		}},
		{form: "kill PROCESS of NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.Kill(a[1], a[0]) }},
		{form: "cut NODE <-> NODE", do: func(_ context.Context, p *player, a []string) error { return both(p, a[0], a[1]) }},
		{form: "cut NODE to NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.Cut(a[0], a[1]) }},
		{form: "cut NODE to NODE after SIZE", do: func(_ context.Context, p *player, a []string) error {
			n, err := p.size(a[2])
			if err != nil {
				return err
			}
			return p.servers.CutAfter(a[0], a[1], n)
		}},
		{form: "heal", do: func(_ context.Context, p *player, _ []string) error { return p.servers.Heal() }},
		{form: "expire NODE <-> NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.Expire(a[0], a[1]) }},
		{form: "fill disk of NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.FillDisk(a[0]) }},
		{form: "free disk of NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.FreeDisk(a[0]) }},
		{form: "power off NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.PowerOff(a[0]) }},
		{form: "lose disk of NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.LoseDisk(a[0]) }},
		{form: "leave lock on NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.LeaveLock(a[0]) }},
		{form: "write history T on NODE at LSN", do: writeHistory},
		{form: "remove history T on NODE", do: func(_ context.Context, p *player, a []string) error {
			t, err := pg.ParseTimeline(a[0])
			if err != nil {
				return err
			}
			return p.servers.RemoveHistory(a[1], t)
		}},
		{form: "tear ROW from NODE to NODE", do: func(_ context.Context, p *player, a []string) error {
			return p.servers.Tear(a[0], a[1], a[2])
		}},
		{form: "crash promotion of NODE before STEP", do: func(_ context.Context, p *player, a []string) error {
			return p.servers.CrashPromotion(a[0], a[1])
		}},
	}
	return immediate(v)
}

// writeHistory writes a history file whose timeline leaves the one below it at
// an LSN.
func writeHistory(_ context.Context, p *player, a []string) error {
	t, err := pg.ParseTimeline(a[0])
	if err != nil {
		return err
	}
	at, err := pg.ParseLSN(a[2])
	if err != nil {
		return err
	}
	return p.servers.WriteHistory(a[1], t, pg.History{{Timeline: t - 1, At: at, Reason: "written by hand"}})
}

// operatorVerbs are what somebody does with SQL.
func operatorVerbs() []verb {
	v := []verb{
		{form: "trigger NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.SignalPromotion(a[0]) }},
		{form: "switch NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.SwitchWAL(a[0]) }},
		{form: "load NODE SIZE", do: func(_ context.Context, p *player, a []string) error {
			n, err := p.size(a[1])
			if err != nil {
				return err
			}
			return p.servers.Load(a[0], n)
		}},
		{form: "limit slots of NODE to SIZE", do: func(_ context.Context, p *player, a []string) error {
			n, err := p.size(a[1])
			if err != nil {
				return err
			}
			return p.servers.LimitSlots(a[0], n)
		}},
		{form: "pause NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.PauseReplay(a[0]) }},
		{form: "resume NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.ResumeReplay(a[0]) }},
		{form: "hold NODE against NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.HoldReplay(a[0], a[1]) }},
		{form: "release NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.ReleaseReplay(a[0]) }},
		{form: "drop slot SLOT on NODE", do: func(_ context.Context, p *player, a []string) error { return p.servers.DropSlot(a[1], a[0]) }},
		{form: "receive NODE as NAME", do: func(_ context.Context, p *player, a []string) error { return p.servers.Receive(a[0], a[1]) }},
	}
	return immediate(v)
}

// size reads a size in KB or MB.
func (p *player) size(text string) (pg.LSN, error) {
	var n pg.LSN
	var unit string
	if _, err := fmt.Sscanf(text, "%d%s", &n, &unit); err != nil {
		return 0, fmt.Errorf("size %q: %w", text, err)
	}
	switch {
	case unit == "KB":
		return n << 10, nil
	case p.full && n == largeLoad:
		n = fullLoad
	}
	return n << 20, nil
}

// largeLoad is a load, in MB, that takes a while to be replayed; at full size it
// is fullLoad.
const (
	largeLoad pg.LSN = 64
	fullLoad  pg.LSN = 1024
)

// longWait is "wait long", and at full size.
const (
	longWait     = 10 * time.Second
	longWaitFull = time.Minute
)

// scriptVerbs are of the script itself.
func scriptVerbs() []verb {
	v := []verb{
		{form: "end", do: func(_ context.Context, p *player, _ []string) error { return p.endPending(false) }},
		{form: "abort", do: func(_ context.Context, p *player, _ []string) error { return p.endPending(true) }},
		{form: "wait long", do: func(_ context.Context, p *player, _ []string) error {
			d := longWait
			if p.full {
				d = longWaitFull
			}
			p.servers.Pass(d, func() bool { return true })
			return nil
		}},
		{form: "wait TIME", do: func(_ context.Context, p *player, a []string) error {
			d, err := time.ParseDuration(a[0])
			p.servers.Pass(d, func() bool { return true })
			return err
		}},
		{form: "remember POINT of NODE as MARK", do: func(ctx context.Context, p *player, a []string) error {
			return p.remember(ctx, a[0]+" of "+a[1], a[2])
		}},
	}
	return immediate(v)
}

var errNothingBegun = errors.New("nothing was begun")

// endPending waits for the operation that was begun.
func (p *player) endPending(abort bool) error {
	op := p.pending
	if op == nil {
		return errNothingBegun
	}
	p.pending = nil
	if abort {
		op.Abort()
	}
	if !p.servers.Await(op.Done) {
		op.Abort()
		p.servers.Await(op.Done)
		return ErrNoAnswer
	}
	return op.Err()
}
