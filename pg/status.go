package pg

import (
	"strconv"
	"time"
)

// Health is what is known of a server's life. "Does not answer" is Unknown,
// not Dead.
type Health string

const (
	HealthUnknown Health = "unknown" // it did not answer in time
	HealthAlive   Health = "alive"   // it answered
	HealthDead    Health = "dead"    // no process of it is left
)

// Process is the state of the server as an operating-system process.
type Process string

const (
	ProcessStopped  Process = "stopped"  // shut down, by us or cleanly
	ProcessCrashed  Process = "crashed"  // the postmaster ended without having been asked to
	ProcessStarting Process = "starting" // runs, does not admit connections yet (recovery)
	ProcessRunning  Process = "running"
	ProcessStopping Process = "stopping"
)

// Role is what a running server is.
type Role string

const (
	RoleUnknown Role = "unknown"
	RolePrimary Role = "primary" // pg_is_in_recovery() is false
	RoleStandby Role = "standby"
)

// StopMode is how a server is stopped.
type StopMode string

const (
	// StopFast ends sessions, ships all WAL to connected standbys and writes a
	// shutdown checkpoint (SIGINT).
	StopFast StopMode = "fast"
	// StopImmediate ends all processes at once, without a checkpoint (SIGQUIT,
	// then SIGKILL).
	StopImmediate StopMode = "immediate"
)

// Status is one look at the local server. Fields that could not be read are
// zero; Health and Process are always set.
type Status struct {
	SampledAt  time.Time // just before the server was asked, by the controller's clock
	AnsweredAt time.Time // when it had answered, zero if it has not
	Generation uint64    // grows with every start and every end of a postmaster
	Process    Process
	Health     Health
	// UnknownSince is when it was asked first of the looks in a row that it has not
	// answered; zero unless Health is HealthUnknown.
	UnknownSince time.Time
	Err          string // why a running server could not be asked, for people
	// Recovering is the WAL file that recovery has reached, by the title of its
	// process; "" if none is seen. It is what moves while a server starts for long.
	Recovering string

	Version  int    // as server_version_num: 150018
	SystemID string // PostgreSQL's system identifier, decimal
	Role     Role

	// Timeline of the WAL held: of the last durable byte, read from the WAL
	// itself (X12: the SQL functions for it err or lag on a standby).
	Timeline Timeline
	// Flushed is the last durable byte a primary has written. Zero on a standby.
	Flushed LSN
	// Received is what a standby's walreceiver has received and flushed since
	// the server started; valid only if ReceivedValid (X6: after a restart it is
	// unknown until streaming begins).
	Received      LSN
	ReceivedValid bool
	// Replayed is how far a standby has replayed.
	Replayed     LSN
	ReplayPaused bool

	Receiver *Receiver   // the walreceiver, nil if there is none that streams
	Upstream string      // primary_conninfo as this server shows it, password removed
	Sync     SyncSetting // synchronous_standby_names as this server shows it
	Senders  []Walsender // connected standbys, sorted by name, then pid
	Slots    []string    // physical replication slots, sorted
	GateOpen bool        // clients are admitted (the read gate is open)
	Pending  []string    // settings that wait for a restart, sorted
	// Overridden are managed settings that somebody has replaced, by ALTER SYSTEM or in
	// a file, sorted. The controller puts them in force again.
	Overridden []string
	Startup    string    // what the startup process waits for, as pg_stat_activity says it
	Postgres   int       // the postmaster's process id, 0 if none
	StartedAt  time.Time // pg_postmaster_start_time()
}

// Held is the position of the last durable byte: what a primary has flushed;
// on a standby the larger of received (where valid) and replayed. For a vote
// ask the Fencer instead: only after the fence is this a position.
func (s Status) Held() Position {
	lsn := s.Flushed
	if s.Role != RolePrimary {
		lsn = s.Replayed
		if s.ReceivedValid {
			lsn = max(lsn, s.Received)
		}
	}
	return Position{Timeline: s.Timeline, LSN: lsn}
}

// Backlog is how much a standby has received and not replayed, in bytes. Zero if
// that is not known, see ReceivedValid.
func (s Status) Backlog() LSN {
	if !s.ReceivedValid || s.Received <= s.Replayed {
		return 0
	}
	return s.Received - s.Replayed
}

// Streams reports whether a walreceiver streams.
func (s Status) Streams() bool { return s.Receiver != nil && s.Receiver.State == "streaming" }

// Receiver is a row of pg_stat_wal_receiver.
type Receiver struct {
	State    string // "streaming" and others
	Host     string // sender_host
	Port     int    // sender_port
	Slot     string
	Timeline Timeline // received_tli
}

// Walsender is a row of pg_stat_replication.
type Walsender struct {
	PID      int
	Name     string // application_name
	State    string // "streaming", "catchup", "backup", ...
	Flush    LSN    // zero if not known
	Replay   LSN
	Sync     string // sync_state: "async", "potential", "sync", "quorum"
	Priority int    // sync_priority
}

// SyncView is what a *new* session sees of synchronous replication: proof that
// the postmaster has re-read its configuration, and what each walsender says.
type SyncView struct {
	Setting SyncSetting
	Flush   LSN // pg_current_wal_flush_lsn(), read in the same look; zero on a standby
	Senders []Walsender
}

// OnDisk is what the data directory says when no server runs, from the control
// file and the WAL.
type OnDisk struct {
	SystemID string
	Version  string // major version: "15"
	Clean    bool   // shut down cleanly, as a primary or in recovery
	State    string // "shut down", "in production", ... as pg_controldata says it
	Standby  bool   // will start as a standby
	// Timeline is that of the last checkpoint: the data's, if it was shut down cleanly.
	Timeline Timeline
}

// Promotion is the result of a promotion.
type Promotion struct {
	Timeline Timeline // as the server says after it
	SwitchAt LSN      // where the new timeline begins
}

// Remote is what another server says over the replication protocol.
type Remote struct {
	SystemID string
	Lineage  Lineage // its timeline, and the history of it
	Flushed  LSN
	Standby  bool
	// CheckpointTimeline is the timeline in its control file. A rewind source
	// must have finished its first checkpoint on its timeline.
	CheckpointTimeline Timeline
}

// Copying is a rewind or clone under way.
type Copying struct {
	How   string    // "rewind" or "clone"
	From  string    // host and port of the source
	Since time.Time // by the controller's clock
	Done  uint64    // bytes
	Total uint64    // bytes, as far as that is known; zero before it is
}

// Slot is a physical replication slot that a server is to have. Advance is how
// far it may let go of WAL while nobody uses it; zero keeps it where it is.
type Slot struct {
	Name    string
	Advance LSN
}

// Upstream is where a standby streams from, and as whom. The zero value is
// "nowhere": the server is fenced.
type Upstream struct {
	Host string
	Port int
	Name string // application_name: node and incarnation
	Slot string // physical slot, "" for none
}

// IsZero reports whether there is no upstream.
func (u Upstream) IsZero() bool { return u == Upstream{} }

// Address returns host and port for people.
func (u Upstream) Address() string {
	if u.IsZero() {
		return "nowhere"
	}
	return u.Host + ":" + strconv.Itoa(u.Port)
}
