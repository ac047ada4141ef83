package config

import (
	"reflect"
	"time"
)

// Config is a checked configuration. The comments in the table of Keys say
// what each field means.
type Config struct {
	Namespace            string
	Cluster              string
	Node                 string
	Bootstrap            bool
	BootstrapFrom        string
	Backup               Backup
	Existing             Existing
	DCS                  DCS
	Postgres             Postgres
	Guard                Guard
	API                  API
	Timing               Timing
	Mode                 string
	Strict               bool
	MaximumLagOnFailover int // bytes
	OnExit               string
	Tags                 Tags
	Log                  Log

	file    string            // "" if there is none
	origins map[string]origin // of the keys that are not at their default
	record  *Record
	base    *base
}

// The values of bootstrap_from.
const (
	FromInitdb   = "initdb"
	FromBackup   = "backup"
	FromExisting = "existing"
)

// Backup is what a new cluster begins with, where bootstrap_from says so.
type Backup struct {
	Command        []string
	RestoreCommand string
	Target         string // time, lsn, name, xid or immediate; "" is the end of the WAL
	Value          string // of the target
	Exclusive      bool
	Timeline       string // "" is the latest
}

// Existing is a server that somebody else has run so far.
type Existing struct {
	ConfigFile string // "" is the one in the data directory
}

// Postgres describes the local server.
type Postgres struct {
	BinDir      string
	DataDir     string
	StateDir    string
	SocketDir   string
	Listen      string
	Port        int
	OSUser      string
	Superuser   string
	Database    string
	Replication Replication
	Parameters  map[string]string
	HBA         []string
	Ident       []string
	Log         string // "" is the default

	MonitorUser      string // "" for none
	SelfCheckTimeout time.Duration
	MemberSlotsTTL   time.Duration // 0 is for ever
	Archive          Archive
	CloneCommand     []string // none: pg_basebackup
	Rejoin           Rejoin
}

// Archive is how WAL is archived.
type Archive struct {
	Command string // "" is not at all
	Resend  int    // bytes
}

// Rejoin bounds the rewinds and clones that fail.
type Rejoin struct {
	Attempts int
	Within   time.Duration
	Then     string
}

// Replication is the role by which nodes copy from each other.
type Replication struct {
	User         string
	Password     Secret
	PasswordFile string
}

// API says where this node can be asked directly, and by whom. The zero value is
// no API of one's own choice.
type API struct {
	Listen       string // host:port
	Advertise    string // host:port
	TLS          APITLS
	Username     string
	Password     Secret
	PasswordFile string
	Allow        []string // addresses and networks, see Allowed
}

// APITLS says how the line between nodes is encrypted, in both directions.
type APITLS struct {
	CertFile           string
	KeyFile            string
	CAFile             string
	ClientCertificates bool
}

// IsZero reports whether nothing is configured.
func (a API) IsZero() bool { return reflect.ValueOf(a).IsZero() }

// Protected reports whether anything is demanded of whoever asks.
func (a API) Protected() bool { return a.Username != "" || a.TLS.ClientCertificates }

// Guard says whether pghad-guard is the parent of the local server.
type Guard struct {
	Use             string // auto, always or never
	Program         string // "" is the one that is found
	Watchdog        string // device, "" for none
	WatchdogTimeout time.Duration
}

// The values of guard.use.
const (
	GuardAuto   = "auto"
	GuardAlways = "always"
	GuardNever  = "never"
)

// Tags say what this node may become.
type Tags struct {
	NoFailover       bool
	FailoverPriority int
}

// MayWin reports whether this node may win an election.
func (t Tags) MayWin() bool { return !t.NoFailover && t.FailoverPriority > 0 }

// Log says what is logged, and how.
type Log struct {
	Level  string
	Format string
}

// File is the file that the configuration was read from, "" if there is none.
func (c *Config) File() string { return c.file }

// Where says for people where the value of a key comes from: "FILE:LINE:COLUMN:
// KEY", "VARIABLE: KEY", or the key alone where it is the default.
func (c *Config) Where(key string) string {
	from, ok := c.origins[key]
	if !ok {
		return key
	}
	return from.String() + ": " + key
}

// Problem makes an error about the value of a key that was found only when it
// was used: a port that is taken, a directory that cannot be written.
func (c *Config) Problem(key, sentence string) error {
	return &Error{Problems: []Problem{c.Remark(key, sentence)}}
}

// Remark says something about the value of a key that is no error.
func (c *Config) Remark(key, sentence string) Problem {
	return Problem{Where: c.origins[key].String(), Key: key, Sentence: sentence}
}
