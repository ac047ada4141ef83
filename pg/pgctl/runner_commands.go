package pgctl

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// Commands are the user's own commands by which the server is run, for example
// those of a systemd unit. Each is a program and its arguments, run as this
// process's user.
//
// Whoever runs the server must start it on Config.DataDir, with the configuration
// files that the controller writes there, as Config.User, and must not start it by
// himself: not at boot, and not again when it has ended (Restart=no). An immediate
// stop signals the processes and does not ask him.
type Commands struct {
	// Start starts the server. It may return before the server is up.
	Start []string
	// Stop begins a fast stop. It may wait for the end.
	Stop []string
	// Status exits with 0 while the server is being started or runs. Default: only
	// the processes are looked at.
	Status []string
	// Timeout bounds each command, and the wait for the postmaster. Default: 1 min.
	Timeout time.Duration
}

func (cfg *Config) checkCommands() error {
	if cfg.Commands == nil {
		return nil
	}
	for _, command := range []struct {
		name string
		args []string
	}{{"Start", cfg.Commands.Start}, {"Stop", cfg.Commands.Stop}} {
		if len(command.args) == 0 || command.args[0] == "" {
			return fmt.Errorf("the command %s of Commands is empty: set it to a program and its arguments", command.name)
		}
	}
	return nil
}

// statusPause is the pause between two status commands. The first one that fails
// may have been too early.
const statusPause = time.Second

// commandLogName is the file in the state directory that takes what the commands
// say.
const commandLogName = "commands.log"

// commandRunner runs the server by the user's commands.
type commandRunner struct {
	cfg      Config
	commands Commands
	stopping sync.WaitGroup
	lifetime context.Context // ends at close
	end      context.CancelFunc
}

func newCommandRunner(cfg Config) *commandRunner {
	r := &commandRunner{cfg: cfg, commands: *cfg.Commands}
	if r.commands.Timeout <= 0 {
		r.commands.Timeout = time.Minute
	}
	r.lifetime, r.end = context.WithCancel(context.Background())
	return r
}

// start has the server started and waits for its postmaster. A start that has
// failed, or was cut off, is undone: nobody would look at what comes of it.
func (r *commandRunner) start(ctx context.Context, _ order) (process, error) {
	p, err := r.tryStart(ctx)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return p, nil
}

func (r *commandRunner) tryStart(ctx context.Context) (process, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var failed error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		failed = r.run(context.WithoutCancel(ctx), "start", r.commands.Start)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		r.undo(ended)
		return nil, context.Cause(ctx)
	}
	if failed == nil {
		p, err := r.awaitPostmaster(ctx)
		if err == nil {
			return p, nil
		}
		failed = err
	}
	r.undo(ended)
	return nil, failed
}

// undo runs the stop command until the start command has ended, and once more.
//
// A start command that was cut off is not killed, for that would not end what it
// has begun: systemd goes on with the job, and the postmaster of pg_ctl is in a
// session of its own and may not have its postmaster.pid yet. It would come after
// everybody has seen that no server runs.
func (r *commandRunner) undo(ended <-chan struct{}) {
	for {
		last := false
		select {
		case <-ended:
			last = true
		default:
		}
		err := r.run(context.Background(), "stop", r.commands.Stop)
		if last {
			if err != nil {
				r.cfg.Logger.Warn("a failed start cannot be undone by the stop command", "error", err.Error())
			}
			return
		}
		select {
		case <-ended:
		case <-r.cfg.Clock.After(statusPause):
		}
	}
}

// awaitPostmaster waits for the server of a start command that has succeeded.
func (r *commandRunner) awaitPostmaster(ctx context.Context) (process, error) {
	ctx, cancel := timectx.With(ctx, r.cfg.Clock, r.commands.Timeout, "start of the postmaster after the start command")
	defer cancel()
	asked, failures := r.cfg.Clock.Now(), 0
	for {
		if pid := readPidFile(r.cfg.DataDir).pid; pid != 0 {
			if p, err := r.adopt(ctx, pid); err == nil {
				return p, nil
			}
		}
		if now := r.cfg.Clock.Now(); len(r.commands.Status) > 0 && now.Sub(asked) >= statusPause {
			err := r.run(ctx, "status", r.commands.Status)
			asked, failures = now, failures+1
			if err == nil {
				failures = 0
			}
			if failures > 1 && ctx.Err() == nil {
				return nil, fmt.Errorf("the start command has succeeded, and no server runs on %s: %w", r.cfg.DataDir, err)
			}
		}
		if err := timectx.Sleep(ctx, r.cfg.Clock, r.cfg.Poll); err != nil {
			return nil, fmt.Errorf("no server runs on %s: %w", r.cfg.DataDir, err)
		}
	}
}

func (r *commandRunner) adopt(_ context.Context, pid int) (process, error) {
	p, err := adoptProcess(&r.cfg, pid)
	if err != nil {
		return nil, err
	}
	return &commanded{adopted: p, runner: r}, nil
}

func (r *commandRunner) close() error {
	r.end()
	r.stopping.Wait()
	return nil
}

// run executes a command to its end. When ctx or its time ends, it and all that
// it started are killed.
func (r *commandRunner) run(ctx context.Context, what string, command []string) error {
	ctx, cancel := timectx.With(ctx, r.cfg.Clock, r.commands.Timeout, what+" command "+command[0])
	defer cancel()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	defer r.cfg.Effects.begin("command " + what)()
	// A file and no pipe: the server may go on to use its starter's output.
	output, err := os.OpenFile(filepath.Join(r.cfg.StateDir, commandLogName), os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("output of the %s command: %w", what, err)
	}
	defer output.Close() //nolint:errcheck // the command has its own
	from, err := output.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("output of the %s command: %w", what, err)
	}
	cmd := exec.Command(command[0], command[1:]...) //nolint:gosec // what the configuration says; the whole process group is killed below
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s command: %w", what, err)
	}
	stop := context.AfterFunc(ctx, func() { killGroup(cmd.Process.Pid) })
	err = cmd.Wait()
	stop()
	if cause := context.Cause(ctx); cause != nil && err != nil {
		return cause
	}
	if err != nil {
		return &toolError{tool: what + " command " + command[0], output: readTail(output, from), err: err}
	}
	return nil
}

// commanded is a postmaster that the user's commands have started.
type commanded struct {
	*adopted
	runner *commandRunner
}

// stop asks for a fast stop by command, so that whoever runs the server knows that
// it was meant. An immediate stop is one that cannot wait for commands.
func (p *commanded) stop(mode pg.StopMode) error {
	if mode == pg.StopImmediate {
		return p.adopted.stop(mode)
	}
	p.runner.stopping.Go(func() {
		if err := p.runner.run(p.runner.lifetime, "stop", p.runner.commands.Stop); err != nil {
			p.cfg.Logger.Warn("the stop command has failed, and PostgreSQL is signalled", "error", err.Error())
			if err := p.adopted.stop(mode); err != nil {
				p.cfg.Logger.Warn("PostgreSQL cannot be signalled", "error", err.Error())
			}
		}
	})
	return nil
}
