package cli

import (
	"context"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/internal/app/config"
)

// Streams is what a run of the command line has of the world.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Env      []string // "NAME=value", as os.Environ returns it
}

// Run carries out one command line (without the program's name) and returns
// the exit code. What went wrong is said on Err, in one sentence per problem.
// The end of ctx is the wish to stop.
func Run(ctx context.Context, args []string, streams Streams) int {
	app := &app{Streams: streams}
	root := app.root()
	root.SetArgs(args)
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	err := root.ExecuteContext(ctx)
	if err != nil && !app.begun {
		err = &usageError{err} // cobra's own: an unknown command, flag or argument
	}
	report(streams.Err, err)
	return exitCode(err)
}

// app holds what the commands of one run share.
type app struct {
	Streams
	begun bool // a command has got its arguments and begun its work
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pghad",
		Short: "Highly available PostgreSQL",
		Long: `pghad keeps a cluster of PostgreSQL servers available and loses no commit that
was acknowledged.

Exit codes: 0 done, 1 refused, 2 usage or configuration, 3 failed or
unreachable, 4 outcome unknown.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(a.demo(), a.demoEtcd(), a.run(), a.member(), a.check(), a.showConfig(), a.editConfig(), a.list(), a.why(), a.switchover(), a.maintenance(), a.version(), configHelp())
	return root
}

// command wraps a command's work, so that its errors are told from those that
// cobra finds in the arguments.
func (a *app) command(work func(cmd *cobra.Command) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		a.begun = true
		return work(cmd)
	}
}

// newLogger logs to Err as the configuration says.
func (a *app) newLogger(cfg config.Log) *slog.Logger {
	logger, _ := a.levelLogger(cfg)
	return logger
}

// levelLogger is one whose least severity can be changed.
func (a *app) levelLogger(cfg config.Log) (*slog.Logger, *slog.LevelVar) {
	level := &slog.LevelVar{}
	level.Set(logLevel(cfg.Level))
	options := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(a.Err, options)), level
	}
	return slog.New(slog.NewTextHandler(a.Err, options)), level
}

// logLevel is the severity that a value of log.level names.
func logLevel(text string) slog.Level {
	return map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}[text]
}
