// Command pghad runs a node of a highly available PostgreSQL cluster, and shows
// and demonstrates one. "pghad --help" says what it can do.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/pghad/pghad/internal/app/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Environ()}))
}
