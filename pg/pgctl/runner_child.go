package pgctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/pghad/pghad/pg"
)

// childRunner runs the server as a child of this process.
type childRunner struct{ cfg *Config }

func (r *childRunner) start(_ context.Context, o order) (process, error) {
	cmd := exec.Command(o.argv[0], o.argv[1:]...) //nolint:gosec // a program of the configured PostgreSQL; the server outlives any context
	cmd.Env = o.env
	cmd.Dir = "/"
	cmd.SysProcAttr = r.cfg.account.attributes()
	cmd.Stdout, cmd.Stderr = o.log, o.log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	p := &child{cmd: cmd, ended: make(chan struct{})}
	go func() { // its owner is the postmaster: it ends with it, see Controller.Close
		defer close(p.ended)
		if err := cmd.Wait(); err != nil {
			p.how = err.Error()
		}
	}()
	return p, nil
}

func (r *childRunner) adopt(_ context.Context, pid int) (process, error) {
	p, err := adoptProcess(r.cfg, pid)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (*childRunner) close() error { return nil }

// child is a postmaster that this process is the parent of.
type child struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been reaped
	how   string        // valid from then on
}

func (p *child) number() int { return p.cmd.Process.Pid }

func (p *child) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return signalError(s, p.number(), err)
	}
	return nil
}

func (p *child) stop(mode pg.StopMode) error { return p.signal(stopSignal(mode)) }

func (p *child) wait(ctx context.Context) (string, error) {
	select {
	case <-p.ended:
		return p.how, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func (*child) close() {}
