package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/pghad/pghad/internal/testbed"
)

// orphanGrace is the default of SweepOptions.Grace.
const orphanGrace = 10 * time.Second

// SweepOptions configure the child process that cleans up after a demo which was
// killed.
type SweepOptions struct {
	// Dir is the directory of the demo.
	Dir string
	// Parent is open as long as the demo lives: standard input. Default: os.Stdin.
	Parent io.Reader
	// Grace is how long the nodes of a demo that died may take to stop by
	// themselves. The kernel has asked them to. Default: 10 s.
	Grace time.Duration
}

// RunSweep is the hidden command demo sweep: it waits until the demo has died,
// however it did, ends every process that works in the demo's directory or names
// it, and removes the directory. It is a process of its own because every other
// one is there to be killed or frozen.
func RunSweep(ctx context.Context, o SweepOptions) error {
	if o.Parent == nil {
		o.Parent = os.Stdin
	}
	if o.Grace <= 0 {
		o.Grace = orphanGrace
	}
	if o.Dir == "" {
		return errors.New("demo sweep is for the demo's own use; it needs --dir")
	}
	orphaned := make(chan struct{})
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, o.Parent) // whatever ends it
		close(orphaned)
	}()
	select {
	case <-ctx.Done():
		return nil
	case <-orphaned:
	}
	patient, cancel := context.WithTimeout(ctx, o.Grace)
	defer cancel()
	return testbed.Sweep(patient, o.Dir)
}

// sweeper is the running child.
type sweeper struct {
	child  *testbed.Child
	parent io.Closer // its standard input
}

func startSweeper(program, dir string) (*sweeper, error) {
	cmd := exec.Command(program, "demo", "sweep", "--dir", dir) //nolint:gosec // this program
	cmd.Dir = "/"
	parent, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the sweeper: %w", err)
	}
	// It does not die with this process: it has work to do then.
	child, err := testbed.StartChild(cmd, 0)
	if err != nil {
		return nil, fmt.Errorf("start the sweeper: %w", err)
	}
	return &sweeper{child: child, parent: parent}, nil
}

// stop ends the child before it notices anything.
func (s *sweeper) stop() error { return errors.Join(s.child.Kill(), ignoreClosed(s.parent.Close())) }

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
