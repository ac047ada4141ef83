// Package outcome words the errors that all implementations of dcs share: what
// a call says whose context ended.
package outcome

import (
	"context"
	"errors"
	"fmt"

	"github.com/pghad/pghad/dcs"
)

// Cause is why ctx ended: its cause, joined with ctx.Err where the cause does
// not wrap that already, so that errors.Is finds both. Nil while ctx is alive.
func Cause(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil || errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// Read is the error of a read whose context has ended: the context's own. It is
// nil while ctx is alive.
func Read(ctx context.Context, op, object string) error {
	if cause := Cause(ctx); cause != nil {
		return fmt.Errorf("%s %s: %w", op, object, cause)
	}
	return nil
}

// NotSent is the error of a write whose context had ended before anything was
// sent. It is nil while ctx is alive.
func NotSent(ctx context.Context, op, object string) error {
	if cause := Cause(ctx); cause != nil {
		return fmt.Errorf("%s %s was not sent: %w: %w", op, object, dcs.ErrUnavailable, cause)
	}
	return nil
}

// Keys names the keys of a transaction for an error message: the keys written,
// or those guarded when it writes none.
func Keys(txn dcs.Txn) string {
	first, n := "", len(txn.Then)
	if n > 0 {
		first = txn.Then[0].Key
	} else if n = len(txn.If); n > 0 {
		first = txn.If[0].Key
	}
	if n > 1 {
		return fmt.Sprintf("%s and %d more", first, n-1)
	}
	return first
}
