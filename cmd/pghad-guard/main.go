// Command pghad-guard is the parent of one PostgreSQL server, which it stops when
// a deadline passes that nobody has moved on. See README.md, and package
// internal/guard for how and why.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/pghad/pghad/internal/guard"
)

// The garbage collector is told to keep the heap below half a megabyte: a guard
// allocates some hundred bytes a second, and lives as long as its server.
const (
	gcPercent   = 10
	memoryLimit = 6 << 20
)

// askTimeout bounds what is asked of a running guard.
const askTimeout = 5 * time.Second

const usage = `pghad-guard is the parent of one PostgreSQL server. It reaps what the server leaves
behind, and stops the server when a deadline passes that nobody has moved on.

  pghad-guard run [flags] -- PROGRAM [ARGUMENT]...   start a server and guard it
  pghad-guard serve --socket PATH [flags]            be told by an agent what to start
  pghad-guard deadline --socket PATH DURATION        declare the server writable for so long, or
                                                     move its deadline; 0 stops it at once
  pghad-guard stop --socket PATH [fast|immediate]    stop the server, wait until it is gone
  pghad-guard status --socket PATH                   say how it is

"pghad-guard COMMAND -h" lists the flags.
`

// Exit codes beside those of a guarded server.
const (
	exitRefused = 1
	exitUsage   = 2
	exitFailed  = 3
)

func main() {
	// The postmaster gets a signal when the thread that has started it ends.
	runtime.LockOSThread()
	runtime.GOMAXPROCS(min(2, runtime.NumCPU())) // each processor costs memory
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// errUsage says that the command line is wrong. What is wrong has been said.
var errUsage = errors.New("wrong command line")

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	command, args := args[0], args[1:]
	code, err := 0, error(nil)
	switch command {
	case "run":
		code, err = runServer(args, stderr)
	case "serve":
		code, err = serve(args, stdout, stderr)
	case "deadline":
		err = setDeadline(args, stdout, stderr)
	case "stop":
		err = stop(args, stderr)
	case "status":
		err = status(args, stdout, stderr)
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
	default:
		fmt.Fprintf(stderr, "pghad-guard: there is no command %q\n\n%s", command, usage)
		return exitUsage
	}
	refused := (*guard.Error)(nil)
	switch {
	case err == nil:
		return code
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return exitUsage
	}
	fmt.Fprintf(stderr, "pghad-guard: %v\n", err)
	if errors.As(err, &refused) {
		return exitRefused
	}
	return exitFailed
}

// guardFlags are the flags of the commands that become a guard.
func guardFlags(name string, stderr io.Writer, cfg *guard.Config) *flag.FlagSet {
	flags := newFlags(name, stderr)
	flags.StringVar(&cfg.Socket, "socket", "", "where agents connect: an absolute `path` in a directory of its own")
	flags.DurationVar(&cfg.KillAfter, "kill-after", time.Second, "how long an immediate stop waits before it sends SIGKILL")
	flags.StringVar(&cfg.Watchdog.Device, "watchdog", "", "a watchdog `device` that resets the machine when it is frozen")
	flags.DurationVar(&cfg.Watchdog.Timeout, "watchdog-timeout", 5*time.Second, "after how long the device resets the machine; whole seconds")
	flags.DurationVar(&cfg.Watchdog.Margin, "watchdog-margin", 0, "how long after the deadline that may be (default kill-after + 1s)")
	return flags
}

func newFlags(name string, stderr io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet("pghad-guard "+name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	return flags
}

// parse reads the flags; want is how many arguments may follow.
func parse(flags *flag.FlagSet, args []string, least, most int) error {
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	if err != nil {
		return errUsage // it has been said
	}
	if n := flags.NArg(); n < least || most >= 0 && n > most {
		fmt.Fprintf(flags.Output(), "%s: wrong number of arguments: %q\n", flags.Name(), flags.Args())
		flags.Usage()
		return errUsage
	}
	return nil
}

// runServer starts a server and guards it.
func runServer(args []string, stderr io.Writer) (int, error) {
	cfg := guard.Config{Log: stderr}
	flags := guardFlags("run", stderr, &cfg)
	start := guard.Start{Env: os.Environ()}
	var deadline time.Duration
	flags.StringVar(&start.Log, "log", "", "the `file` that takes the server's output (default: the guard's own)")
	flags.StringVar(&start.Dir, "dir", "/", "the server's working `directory`")
	flags.DurationVar(&deadline, "deadline", 0, "declare the server writable for so long (default: it has no deadline)")
	if err := parse(flags, args, 1, -1); err != nil {
		return 0, err
	}
	if deadline > 0 {
		start.Deadline = &guard.Deadline{Left: guard.Duration(deadline)}
	}
	start.Argv = flags.Args()
	cfg.Start = &start
	return guard.Run(cfg)
}

// serve waits for an agent that says what to start. It says "ready" when agents
// can connect.
func serve(args []string, stdout, stderr io.Writer) (int, error) {
	cfg := guard.Config{Log: stderr, Ready: func() { fmt.Fprintln(stdout, "ready") }}
	flags := guardFlags("serve", stderr, &cfg)
	flags.DurationVar(&cfg.Patience, "patience", 10*time.Second, "how long to wait for an agent")
	if err := parse(flags, args, 0, 0); err != nil {
		return 0, err
	}
	if cfg.Socket == "" {
		fmt.Fprintln(stderr, "pghad-guard serve: say where agents connect: --socket PATH")
		return 0, errUsage
	}
	return guard.Run(cfg)
}

// ask connects to a running guard.
func ask(socket string) (context.Context, *guard.Client, func(), error) {
	if socket == "" {
		return nil, nil, nil, errors.New("say where the guard is: --socket PATH")
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	client, err := guard.Dial(ctx, socket)
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return ctx, client, func() {
		_ = client.Close() // everything has been said
		cancel()
	}, nil
}

func setDeadline(args []string, stdout, stderr io.Writer) error {
	at := guard.Now()
	flags := newFlags("deadline", stderr)
	socket := flags.String("socket", "", "the guard's socket: an absolute `path`")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	left, err := time.ParseDuration(flags.Arg(0))
	if err != nil {
		fmt.Fprintf(stderr, "pghad-guard deadline: %v: give it as 10s or 500ms\n", err)
		return errUsage
	}
	ctx, client, done, err := ask(*socket)
	if err != nil {
		return err
	}
	defer done()
	status, err := client.SetDeadline(ctx, guard.Deadline{Left: guard.Duration(left), At: &at})
	if err == nil {
		printStatus(stdout, client, status)
	}
	return err
}

func status(args []string, stdout, stderr io.Writer) error {
	flags := newFlags("status", stderr)
	socket := flags.String("socket", "", "the guard's socket: an absolute `path`")
	if err := parse(flags, args, 0, 0); err != nil {
		return err
	}
	_, client, done, err := ask(*socket)
	if err != nil {
		return err
	}
	defer done()
	printStatus(stdout, client, client.Hello().Status)
	return nil
}

func printStatus(w io.Writer, client *guard.Client, status guard.Status) {
	words := []string{string(status.State), fmt.Sprintf("guard %d", client.Pid())}
	if status.Pid != 0 {
		words = append(words, fmt.Sprintf("server %d", status.Pid))
	}
	if status.Writable {
		words = append(words, "writable for "+time.Duration(status.Left).Round(time.Millisecond).String())
	}
	if status.Exit != "" {
		words = append(words, status.Exit)
	}
	fmt.Fprintln(w, strings.Join(words, ", "))
}

// stop stops the server and waits until no process of it is left.
func stop(args []string, stderr io.Writer) error {
	flags := newFlags("stop", stderr)
	socket := flags.String("socket", "", "the guard's socket: an absolute `path`")
	if err := parse(flags, args, 0, 1); err != nil {
		return err
	}
	mode := guard.StopFast
	if flags.NArg() == 1 {
		mode = guard.StopMode(flags.Arg(0))
	}
	if mode != guard.StopFast && mode != guard.StopImmediate {
		fmt.Fprintf(stderr, "pghad-guard stop: mode %q: want fast or immediate\n", mode)
		return errUsage
	}
	ctx, client, done, err := ask(*socket)
	if err != nil {
		return err
	}
	defer done()
	if err := client.Stop(ctx, mode); err != nil {
		return err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	for {
		select {
		case event, open := <-client.Events():
			if !open {
				return fmt.Errorf("wait until the server is gone: %w", guard.ErrLost)
			}
			if event.Kind == guard.EventGone {
				return nil
			}
		case <-interrupted:
			return errors.New("interrupted: the server is still stopping")
		}
	}
}
