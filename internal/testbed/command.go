package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// Command runs a command of the program to its end, as a user would: `pghad NAME
// ARGS... -c FILE`, with the configuration file of the first node. It returns
// what was written to standard output. The error has what was written to
// standard error, and the exit code as an *exec.ExitError. A command that has not
// ended when ctx does is killed.
func (c *Cluster) Command(ctx context.Context, name string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	args = append(append([]string{name}, args...), "-c", c.nodes[0].config())
	cmd := exec.Command(c.cfg.Binary, args...) //nolint:gosec // the caller's program
	cmd.Env, cmd.Dir = append(agentEnv(), c.cfg.Env...), "/"
	cmd.Stdout, cmd.Stderr = &out, &errs
	p, err := launchBound(cmd, syscall.SIGKILL)
	if err != nil {
		return "", fmt.Errorf("pghad %s: %w", name, err)
	}
	select {
	case <-p.done:
		err = p.err
	case <-ctx.Done():
		err = errors.Join(context.Cause(ctx), p.kill())
	}
	if err != nil {
		return out.String(), fmt.Errorf("pghad %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}
