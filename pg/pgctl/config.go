package pgctl

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/pg"
)

// Config says where the server is and how it is run. Zero fields mean the
// default that their comment names.
type Config struct {
	// BinDir holds PostgreSQL's programs. Default: FindBinDir.
	BinDir string
	// DataDir is the data directory, absolute. Its parent must be on the same
	// file system: a clone is made in DataDir.new and swapped by renames.
	DataDir string
	// StateDir holds what must survive a crash of the controller and must not be
	// copied with the data: absolute, outside DataDir, on a disk that lasts. Two
	// controllers never share one.
	StateDir string
	// SocketDir is where the server's unix socket is. Default: StateDir. The
	// path of the socket has at most 107 bytes.
	SocketDir string
	// ListenHost is listen_addresses: a host, or several separated by commas.
	// Default: localhost.
	ListenHost string
	// Port is the server's TCP port and part of its socket's name. Default: 5432.
	Port int
	// Name is cluster_name, which stands in process titles. Default: none.
	Name string

	// User is the operating-system user that the server runs as. Default: this
	// process's own, or postgres if that is root.
	User string
	// Superuser is the database role of the controller. Default: postgres.
	Superuser string
	// Database is what the controller connects to. Default: postgres.
	Database string
	// ReplicationUser and ReplicationPassword are the role by which servers of
	// the cluster stream from each other, rewind and clone. Init creates it.
	// Default of the name: replicator. The password is required.
	ReplicationUser     string
	ReplicationPassword string
	// MonitorUser is a database role without superuser's rights, as which Status asks:
	// see MonitoringRole. Init creates it. It may connect locally, as this process's and
	// the server's operating-system user, whatever the gate. Default: the superuser asks.
	MonitorUser string
	// SSLMode is libpq's sslmode for connections to other servers. Default: prefer.
	SSLMode string

	// Parameters are settings of postgresql.conf by name. Managed ones are
	// refused, see Managed.
	Parameters map[string]string
	// HBA are the lines of pg_hba.conf by which clients are admitted while the
	// gate is open. Without any nobody is.
	HBA []string
	// Ident are the user's lines of pg_ident.conf.
	Ident []string
	// InitArgs are further arguments of initdb. Default: --encoding=UTF8
	// --locale=C --data-checksums.
	InitArgs []string

	// Archive is how WAL is archived. Default: not at all.
	Archive Archive
	// CloneCommand, if set, makes the copy of a clone instead of pg_basebackup: a
	// program and its arguments, run as User, for example pgbackrest, barman or wal-g.
	// In each argument {dir} is the directory to fill, which exists and is empty,
	// {host}, {port}, {user}, {passfile} and {conninfo} are the server that is to be
	// copied. What it leaves must be a base backup that can be started as a standby of
	// that server, which must still have the WAL from the backup's start on.
	CloneCommand []string
	// Rejoin bounds the rewinds and clones that fail.
	Rejoin RejoinPolicy

	// MemberSlotsTTL is how long EnsureSlots keeps the slot of a member that it is not
	// asked for any more. Default: for ever.
	MemberSlotsTTL time.Duration

	// ConnectTimeout bounds one attempt to open a session. Default: 2 s.
	ConnectTimeout time.Duration
	// StatementTimeout bounds a short query of the controller, by closing its
	// session. Default: 2 s.
	StatementTimeout time.Duration
	// SelfCheckTimeout bounds SelfCheck. Default: 2 s.
	SelfCheckTimeout time.Duration
	// ReloadTimeout bounds the wait for a reloaded setting to be shown. Default: 10 s.
	ReloadTimeout time.Duration
	// KillAfter is how long an immediate stop waits before it sends SIGKILL.
	// Default: 500 ms.
	KillAfter time.Duration
	// FencePatience is how long Fence waits for a server to become deaf by
	// itself before it ends its receiver, and ten times that before it restarts
	// it. Default: 200 ms.
	FencePatience time.Duration
	// YieldPatience is how long Yield waits for standbys that are not its target:
	// before it stops the server, to learn which of them are fit, and again while
	// the server stops, before it ends their walsenders. The target has five times
	// that to show that it is fit. Default: 300 ms.
	YieldPatience time.Duration
	// PromoteTimeout is the outer deadline of a promotion that has begun. It is
	// doubled by each promotion that exceeds it. Default: 1 min.
	PromoteTimeout time.Duration
	// SourceTimeout is how long Rewind waits for its source to finish the first
	// checkpoint on its timeline. Default: 1 min.
	SourceTimeout time.Duration
	// Poll is the pause between two looks at something that has no event.
	// Default: 5 ms.
	Poll time.Duration

	// Commands, if set, run the server instead of this process, for example by a
	// systemd unit.
	Commands *Commands
	// Guard, if set, runs the server under pghad-guard, which stops it when the
	// deadline passes that SetDeadline sets.
	Guard *Guard

	// Effects are told what the controller does to the world outside. Default: nobody.
	Effects Effects `json:"-"`
	// Clock is the clock of all waits. Default: the real one.
	Clock clock.Clock
	// Logger is where the controller says what it does. Default: nowhere.
	Logger *slog.Logger

	account account // resolved User
	version int     // of BinDir, as server_version_num
}

// maxSocketPath is the room for a unix socket's path in struct sockaddr_un,
// without the final zero.
const maxSocketPath = 107

// toolPipeDelay is how long the pipes of an ended tool may stay open in
// processes that it left behind, in which case it is not waited for any more.
const toolPipeDelay = 2 * time.Second

var (
	parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?$`)
	hostName      = regexp.MustCompile(`^[^\x00-\x1f']+$`)
)

// complete fills in the defaults and checks what does not depend on the data.
func (cfg Config) complete() (Config, error) {
	cfg.defaults()
	if cfg.BinDir == "" {
		dir, err := FindBinDir()
		if err != nil {
			return cfg, err
		}
		cfg.BinDir = dir
	}
	if err := checkBinaries(cfg.BinDir); err != nil {
		return cfg, err
	}
	var err error
	if cfg.version, err = Version(cfg.BinDir); err != nil {
		return cfg, err
	}
	if cfg.version/10000 < minVersion {
		return cfg, &pg.FaultError{
			Kind: pg.ErrUnsupported, Path: cfg.BinDir, Err: fmt.Errorf("its programs are of PostgreSQL %d", cfg.version/10000),
			Remedy: fmt.Sprintf("version %d or later is needed, set BinDir to its programs", minVersion),
		}
	}
	if cfg.account, err = lookupAccount(cfg.User); err != nil {
		return cfg, err
	}
	cfg.account.effects = cfg.Effects
	if err := cfg.checkPaths(); err != nil {
		return cfg, err
	}
	if err := cfg.checkCommands(); err != nil {
		return cfg, err
	}
	if err := cfg.completeGuard(); err != nil {
		return cfg, err
	}
	if err := cfg.checkNames(); err != nil {
		return cfg, err
	}
	if err := cfg.Rejoin.complete(); err != nil {
		return cfg, err
	}
	return cfg, cfg.checkParameters()
}

func (cfg *Config) defaults() {
	for field, value := range map[*string]string{
		&cfg.SocketDir:       cfg.StateDir,
		&cfg.ListenHost:      "localhost",
		&cfg.Superuser:       "postgres",
		&cfg.Database:        "postgres",
		&cfg.ReplicationUser: "replicator",
		&cfg.SSLMode:         "prefer",
	} {
		if *field == "" {
			*field = value
		}
	}
	for field, value := range map[*time.Duration]time.Duration{
		&cfg.ConnectTimeout:   2 * time.Second,
		&cfg.StatementTimeout: 2 * time.Second,
		&cfg.SelfCheckTimeout: 2 * time.Second,
		&cfg.ReloadTimeout:    10 * time.Second,
		&cfg.KillAfter:        500 * time.Millisecond,
		&cfg.FencePatience:    200 * time.Millisecond,
		&cfg.YieldPatience:    300 * time.Millisecond,
		&cfg.PromoteTimeout:   time.Minute,
		&cfg.SourceTimeout:    time.Minute,
		&cfg.Poll:             5 * time.Millisecond,
	} {
		if *field <= 0 {
			*field = value
		}
	}
	if cfg.Port == 0 {
		cfg.Port = 5432
	}
	if cfg.Archive.Resend == 0 {
		cfg.Archive.Resend = standardResend
	}
	if cfg.InitArgs == nil {
		cfg.InitArgs = []string{"--encoding=UTF8", "--locale=C", "--data-checksums"}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.New()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
}

func (cfg *Config) checkPaths() error {
	for name, dir := range map[string]*string{"DataDir": &cfg.DataDir, "StateDir": &cfg.StateDir, "SocketDir": &cfg.SocketDir} {
		if !filepath.IsAbs(*dir) || strings.ContainsAny(*dir, "\n\r\x00'") {
			return fmt.Errorf("%s %q: set it to an absolute path without quotes and line ends", name, *dir)
		}
		*dir = filepath.Clean(*dir)
	}
	if within(cfg.StateDir, cfg.DataDir) || within(cfg.DataDir, cfg.StateDir) {
		return fmt.Errorf("StateDir %s and DataDir %s: one must not lie inside the other, because copies replace DataDir as a whole", cfg.StateDir, cfg.DataDir)
	}
	if within(cfg.SocketDir, cfg.DataDir) {
		return fmt.Errorf("SocketDir %s lies in DataDir %s: set it to a directory outside", cfg.SocketDir, cfg.DataDir)
	}
	if cfg.Port < 1 || cfg.Port > 65535 {
		return fmt.Errorf("TCP port %d: a port is between 1 and 65535", cfg.Port)
	}
	if path := cfg.socketPath(); len(path) > maxSocketPath {
		return fmt.Errorf("the server's socket %s would have %d bytes, but a unix socket's path has at most %d: set SocketDir to a shorter path", path, len(path), maxSocketPath)
	}
	return nil
}

func (cfg *Config) checkNames() error {
	for name, value := range map[string]string{
		"Superuser": cfg.Superuser, "Database": cfg.Database, "ReplicationUser": cfg.ReplicationUser, "MonitorUser": cfg.MonitorUser,
	} {
		if len(value) > 63 || strings.ContainsAny(value, "\n\r\x00\"") {
			return fmt.Errorf("%s %q: a name has at most 63 bytes and no quotes or line ends", name, value)
		}
	}
	if strings.ContainsFunc(cfg.Name, func(r rune) bool { return r < ' ' || r > '~' }) || len(cfg.Name) > 63 {
		return fmt.Errorf("cluster_name %q: Name has at most 63 printable ASCII characters", cfg.Name)
	}
	if !hostName.MatchString(cfg.ListenHost) {
		return fmt.Errorf("ListenHost %q: set it to host names or addresses, separated by commas", cfg.ListenHost)
	}
	if cfg.ReplicationUser == cfg.Superuser {
		return fmt.Errorf("ReplicationUser %q is the superuser: servers connect to each other with a role of their own, set another name", cfg.ReplicationUser)
	}
	if cfg.ReplicationPassword == "" || strings.ContainsAny(cfg.ReplicationPassword, "\n\r\x00") {
		return errors.New("ReplicationPassword: set it to a password in one line, the same on all servers of the cluster")
	}
	if cfg.Database == "template0" || cfg.Database == "template1" {
		return fmt.Errorf("database %q: a session of the controller there would keep others from creating databases, set another one", cfg.Database)
	}
	if strings.ContainsAny(cfg.Archive.Command, "\r\x00") {
		return errors.New("Archive.Command: a command has no carriage returns or zero bytes")
	}
	switch cfg.SSLMode {
	case "disable", "allow", "prefer", "require", "verify-ca", "verify-full":
	default:
		return fmt.Errorf("SSLMode %q: want disable, allow, prefer, require, verify-ca or verify-full", cfg.SSLMode)
	}
	return cfg.checkLines()
}

func (cfg *Config) checkLines() error {
	for name, lines := range map[string][]string{"HBA": cfg.HBA, "Ident": cfg.Ident} {
		for _, line := range lines {
			if strings.ContainsAny(line, "\n\r\x00") {
				return fmt.Errorf("%s %q: each entry is one line", name, line)
			}
		}
	}
	return nil
}

// signalFile is what makes the data a standby's.
func (cfg *Config) signalFile() string { return filepath.Join(cfg.DataDir, signalFile) }

// socketPath is the path of the server's unix socket.
func (cfg *Config) socketPath() string {
	return filepath.Join(cfg.SocketDir, ".s.PGSQL."+strconv.Itoa(cfg.Port))
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// checkData refuses a data directory that this server cannot be started on. An
// absent or empty one is fine: Init or Clone will fill it.
func (cfg *Config) checkData() error {
	empty, err := isEmptyDir(cfg.DataDir)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", cfg.DataDir, fileFault(cfg.DataDir, err))
	}
	if empty {
		return nil
	}
	info, err := os.Stat(cfg.DataDir)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", cfg.DataDir, fileFault(cfg.DataDir, err))
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != cfg.account.uid {
		return &pg.FaultError{
			Kind: pg.ErrPermission, Path: cfg.DataDir,
			Err:    fmt.Errorf("it belongs to user %d, but the server runs as %s (%d)", stat.Uid, cfg.account.name, cfg.account.uid),
			Remedy: "set User to its owner, or chown -R it",
		}
	}
	if info.Mode().Perm()&0o027 != 0 {
		return &pg.FaultError{
			Kind: pg.ErrPermission, Path: cfg.DataDir, Err: fmt.Errorf("it has mode %04o", info.Mode().Perm()),
			Remedy: "PostgreSQL wants 0700 or 0750, chmod it",
		}
	}
	err = cfg.checkVersion(cfg.DataDir)
	if errors.Is(err, pg.ErrNoData) || errors.Is(err, pg.ErrNotData) {
		// What an interrupted initdb or copy leaves, or none of ours; the operation
		// that meets it says so.
		return nil
	}
	return err
}

// checkVersion refuses data of another version than the programs.
func (cfg *Config) checkVersion(dir string) error {
	major, err := majorOfData(dir)
	if err != nil {
		return err
	}
	if want := strconv.Itoa(cfg.version / 10000); major != want {
		return &pg.FaultError{
			Kind: pg.ErrUnsupported, Path: dir,
			Err:    fmt.Errorf("it is of PostgreSQL %s, and the programs in %s are of %s", major, cfg.BinDir, want),
			Remedy: "set BinDir to the programs of " + major + ", or upgrade the data",
		}
	}
	return nil
}
