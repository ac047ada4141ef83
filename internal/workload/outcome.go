package workload

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// Outcome is what a client knows about a write that it sent.
type Outcome string

const (
	// Acknowledged: the server said that it is committed. It must never vanish.
	Acknowledged Outcome = "acknowledged"
	// Unknown: it may have been committed, now or later.
	Unknown Outcome = "unknown"
	// Failed: it was surely not committed.
	Failed Outcome = "failed"
)

// refusals are the errors of PostgreSQL that an INSERT can only get before it
// has changed anything. All others count as unknown: an error can also arrive
// after the local commit (a terminated session that waits for its standbys).
var refusals = map[string]bool{
	"25006": true, // read_only_sql_transaction: a standby
	"42501": true, // insufficient_privilege
	"42P01": true, // undefined_table
	"53300": true, // too_many_connections
	"57P03": true, // cannot_connect_now
}

// classify turns the end of an INSERT into an outcome and, unless acknowledged,
// a reason. Success with a warning is unknown: "canceling wait for synchronous
// replication" is one, in whatever language the server speaks.
func classify(err error, warned bool) (Outcome, string) {
	switch {
	case err == nil && warned:
		return Unknown, "the server warned: the commit may be on one node only"
	case err == nil:
		return Acknowledged, ""
	case pgconn.SafeToRetry(err):
		return Failed, fmt.Sprintf("not sent: %v", err)
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refusals[refused.Code] {
		return Failed, refused.Code + " " + refused.Message
	}
	return Unknown, err.Error()
}
