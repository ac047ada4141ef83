package ha

import (
	"context"
	"errors"

	"github.com/pghad/pghad/internal/timectx"
)

// Exit is what becomes of a node's server and locks when the context of Run ends:
// that of NodeConfig, or the one of which the cause of the context's end is made.
type Exit string

// Cause is for whoever ends the context of Run: see context.WithCancelCause.
func (e Exit) Cause() error { return &exitError{e} }

type exitError struct{ exit Exit }

func (e *exitError) Error() string { return "the node is to end: " + string(e.exit) }

func (e Exit) valid() bool { return e == ExitHandOver || e == ExitStop || e == ExitKeep }

const (
	// ExitHandOver: a primary hands its term over to the best member if there is
	// one, as by a switchover. Then, or if that does not succeed in the time that a
	// switchover has, as ExitStop.
	ExitHandOver Exit = "hand-over"
	// ExitStop: the server is stopped (fast) and the locks are released.
	ExitStop Exit = "stop"
	// ExitKeep: the server runs on, and the locks stand until they expire. A Node
	// that is run on the same disk before that goes on with both, and no client
	// notices. It is meant for servers in the hands of a guard, see DeadlineSetter,
	// which stops a primary to which nobody comes back.
	ExitKeep Exit = "keep"
)

// errKept is why a term ends whose server is left to the next agent.
var errKept = errors.New("the node has ended, and leaves the server to the next one")

// exit ends the node. The loop has ended with ctx; the watches still poke.
func (n *Node) exit(ctx context.Context) error {
	n.settle()
	how := n.settings.Exit
	if asked, ok := errors.AsType[*exitError](context.Cause(ctx)); ok && asked.exit.valid() {
		how = asked.exit
	}
	ctx = context.WithoutCancel(ctx)
	switch how {
	case ExitKeep:
		return n.leaveServer(ctx)
	case ExitHandOver:
		if err := n.handOverAtExit(ctx); err != nil {
			n.cfg.Logger.WarnContext(ctx, "the term is not handed over, the server is stopped", "error", err)
		}
	case ExitStop:
	}
	return n.shutdown(ctx)
}

// leaveServer leaves server and locks as they are.
func (n *Node) leaveServer(ctx context.Context) error {
	n.cfg.Logger.InfoContext(ctx, "the server is left running, and the locks are left to expire")
	if n.office != nil {
		n.leaveOffice(ctx, errKept)
	}
	closing, cancel := n.request(ctx, "end of the locker")
	defer cancel()
	return n.locker.Abandon(closing)
}

// handOverAtExit asks for a switchover to the best member, as an operator would, and
// goes on as before until the term has ended by that.
func (n *Node) handOverAtExit(ctx context.Context) error {
	if n.office == nil || n.memory.State().Maintenance {
		return nil
	}
	operator, err := NewOperator(OperatorConfig{
		Store: n.cfg.Store, Keys: n.keys, Timing: n.cfg.Timing, Clock: n.cfg.Clock, Wall: n.cfg.Wall, Rand: n.cfg.Rand, Logger: n.cfg.Logger,
	})
	if err != nil {
		return err
	}
	ctx, cancel := timectx.With(ctx, n.cfg.Clock, operator.SwitchoverBound(), "switchover at the end of the node")
	defer cancel()
	defer context.AfterFunc(ctx, n.poke)()
	n.leaving, err = operator.ScheduleSwitchover(ctx, SwitchoverRequest{From: n.cfg.Name, By: "the end of the node " + n.cfg.Name})
	if err != nil {
		return err
	}
	for n.office != nil && n.leaving != "" && ctx.Err() == nil {
		pause, err := n.turn(ctx)
		if err != nil {
			return err
		}
		if n.office != nil {
			n.rest(pause)
		}
	}
	switch {
	case n.office == nil:
		return nil
	case n.leaving == "":
		return errors.New("the switchover has failed")
	}
	return context.Cause(ctx)
}
