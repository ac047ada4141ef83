package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/app/config"
)

// Exit codes.
const (
	ExitDone    = 0
	ExitRefused = 1 // asked for and not granted; nothing was changed
	ExitUsage   = 2 // usage or configuration; nothing was changed
	ExitFailed  = 3 // failed or unreachable
	ExitUnknown = 4 // it may have been carried out or not
)

// usageError is a command line that cannot be carried out as it was written.
type usageError struct{ err error }

func (e *usageError) Error() string {
	return e.err.Error() + "; see pghad --help"
}

func (e *usageError) Unwrap() error { return e.err }

// outcomeError is how something ended that was begun, with the exit code for it.
type outcomeError struct {
	code int
	err  error
}

func (e *outcomeError) Error() string { return e.err.Error() }

func (e *outcomeError) Unwrap() error { return e.err }

// exitCode is the one of the first rule that applies.
func exitCode(err error) int {
	var (
		usage   *usageError
		problem *config.Error
		outcome *outcomeError
	)
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &outcome):
		return outcome.code
	case errors.As(err, &usage), errors.As(err, &problem), errors.Is(err, ha.ErrForeignData):
		return ExitUsage
	case errors.Is(err, dcs.ErrAmbiguous):
		return ExitUnknown
	case errors.Is(err, dcs.ErrConflict), errors.Is(err, ha.ErrRefused):
		return ExitRefused
	}
	return ExitFailed
}

// report says what went wrong: problems of a configuration as they are, with
// file, line and column first, so that an editor can jump there.
func report(w io.Writer, err error) {
	if err == nil {
		return
	}
	if problem, ok := errors.AsType[*config.Error](err); ok {
		fmt.Fprintln(w, problem.Error())
		return
	}
	fmt.Fprintln(w, "pghad: "+strings.TrimSpace(err.Error()))
}
