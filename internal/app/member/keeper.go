package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/pghad/pghad/internal/app/config"
)

const (
	// againAfter is the pause before a member that has ended is started again.
	againAfter = time.Second
	// portPatience is how long the member of an agent that was killed may take to
	// end.
	portPatience = 5 * time.Second
	// stopPatience is how long a member may take to end in order.
	stopPatience = 5 * time.Second
)

// Member is the running part of a node. It is started again whenever it ends.
type Member struct {
	program string
	args    []string
	logger  *slog.Logger
	cancel  context.CancelFunc
	done    chan struct{}
}

// Start starts the member that cfg describes, as a process of this program, and
// does not wait for it to serve: that takes a majority of the members. It returns
// nil where the store is not embedded. Its error is a *config.Error where the
// configuration does not fit this machine.
func Start(ctx context.Context, cfg *config.Config, logger *slog.Logger) (*Member, error) {
	if cfg.DCS.Type != config.StoreEmbedded {
		return nil, nil //nolint:nilnil // see above
	}
	if err := checkPorts(ctx, cfg); err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("path of this program: %w", err)
	}
	args := []string{"member"}
	if cfg.File() != "" {
		args = append(args, "-c", cfg.File())
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m := &Member{program: program, args: args, logger: logger, cancel: cancel, done: make(chan struct{})}
	go m.keep(running)
	return m, nil
}

// checkPorts finds out whether the member could listen. One that is about to end
// is waited for.
func checkPorts(ctx context.Context, cfg *config.Config) error {
	c := cfg.DCS.Embedded
	ctx, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	for _, address := range []struct{ key, url string }{
		{"dcs.embedded.listen", c.Listen},
		{"dcs.embedded.members", c.Members[cfg.Node]},
	} {
		u, err := url.Parse(address.url)
		if err != nil {
			return cfg.Problem(address.key, err.Error()) // has been checked
		}
		if err := awaitPort(ctx, u.Host); err != nil {
			sentence := fmt.Sprintf("the member of this node could not listen at %s (%v); write an address of this machine with a port that is free", u.Host, err)
			if errors.Is(err, syscall.EADDRINUSE) {
				sentence = u.Host + " is used by another program; stop that one, or write another port"
			}
			return cfg.Problem(address.key, sentence)
		}
	}
	return nil
}

// awaitPort returns when a listener could be had at the address, or why not.
func awaitPort(ctx context.Context, address string) error {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		listener, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(ctx), "tcp", address)
		if err == nil {
			return listener.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return err
		}
	}
}

// keep runs one process after the other.
func (m *Member) keep(ctx context.Context) {
	defer close(m.done)
	for {
		err := m.once(ctx)
		if ctx.Err() != nil {
			return
		}
		m.logger.ErrorContext(ctx, "the member of the embedded store has ended; starting it again", "error", err)
		timer := time.NewTimer(againAfter)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// once runs one process to its end, which comes when ctx ends.
func (m *Member) once(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, m.program, m.args...) //nolint:gosec // this program
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	stdin, err := cmd.StdinPipe() // open as long as this process lives
	if err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	cmd.Cancel, cmd.WaitDelay = stdin.Close, stopPatience
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run it: %w", err)
	}
	return errors.New("it has ended by itself")
}

// Close ends the member and waits for that. On nil it does nothing.
func (m *Member) Close() {
	if m == nil {
		return
	}
	m.cancel()
	<-m.done
}
