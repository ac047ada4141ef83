package daemon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/config"
)

// checkMachine finds what would go wrong on this machine later, while nothing has
// been written.
func checkMachine(ctx context.Context, cfg *config.Config, host string) error {
	for _, check := range []func(*config.Config) error{checkDataDir, checkStateDir, checkLog, checkGuard, checkExisting} {
		if err := check(cfg); err != nil {
			return err
		}
	}
	return checkPort(ctx, cfg, host)
}

// checkExisting refuses a server of somebody else that still runs: this node has no
// right to let it write, and would stop it at once.
func checkExisting(cfg *config.Config) error {
	if !cfg.Bootstrap || cfg.BootstrapFrom != config.FromExisting {
		return nil
	}
	if file := cfg.Existing.ConfigFile; file != "" {
		if err := unix.Access(file, unix.R_OK); err != nil {
			return cfg.Problem("existing.config_file", fmt.Sprintf("%s: %v; write the path of the postgresql.conf that the server has had so far", file, err))
		}
	}
	if _, err := os.Stat(filepath.Join(cfg.Postgres.StateDir, "state.json")); err == nil {
		return nil // it is ours already
	}
	if ownServerRuns(cfg.Postgres.DataDir) {
		return cfg.Problem("bootstrap_from", "existing takes in a server that was shut down, and one runs in "+cfg.Postgres.DataDir+
			"; stop it (fast, not immediate), and disable its unit, so that nobody starts it again")
	}
	return nil
}

// checkStore finds what would go wrong with the store later. It also says what is
// risky, and why the store could not be asked, "" if it could.
func checkStore(ctx context.Context, cfg *config.Config, store dcs.Store) (remarks []config.Problem, storeErr string, err error) {
	if storeErr, err = checkCluster(ctx, cfg, store); err != nil || storeErr != "" {
		return nil, storeErr, err
	}
	return checkSession(ctx, cfg, store)
}

// checkSession opens a session of the store for a moment, as locks will: only
// that shows whether the store grants the time that is configured, and whether
// this user may write.
func checkSession(ctx context.Context, cfg *config.Config, store dcs.Store) (remarks []config.Problem, storeErr string, err error) {
	const key = "timing.ttl"
	asked, cancel := context.WithTimeout(ctx, cfg.Timing.Request)
	defer cancel()
	session, err := store.NewSession(asked, cfg.Timing.TTL)
	switch {
	case errors.Is(err, dcs.ErrInvalid):
		return nil, "", cfg.Problem(key, fmt.Sprintf("the store refuses it: %s; lower it, or raise the limit on every server",
			strings.TrimSuffix(err.Error(), ": "+dcs.ErrInvalid.Error())))
	case err != nil:
		return nil, err.Error(), nil // the node tries again
	}
	defer session.Close(asked) //nolint:errcheck // it expires
	if granted := session.TTL(); granted > cfg.Timing.TTL {
		remarks = append(remarks, cfg.Remark(key, fmt.Sprintf("%s is less than the store grants at least, %s: "+
			"the locks of a silent node end after that; write that, or lower the store's limit", cfg.Timing.TTL, granted)))
	}
	return remarks, "", nil
}

// checkGuard refuses to leave a server to a guard that there is not.
func checkGuard(cfg *config.Config) error {
	if cfg.OnExit == string(ha.ExitKeep) && guardOf(cfg) == nil {
		return cfg.Problem("on_exit", "keep leaves PostgreSQL to its guard, and there is no pghad-guard beside pghad nor in PATH; install it, or set guard.program")
	}
	return nil
}

// checkDataDir refuses a path that cannot be a data directory. What holds it
// must be writable too: copies are made beside it and swapped by renaming.
func checkDataDir(cfg *config.Config) error {
	const key = "postgres.data_dir"
	dir := cfg.Postgres.DataDir
	exists, err := checkDirectory(cfg, key, dir)
	if err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	if err := unix.Access(parent, unix.W_OK|unix.X_OK); err != nil {
		return cfg.Problem(key, fmt.Sprintf("copies of another node's data are made in %s, and nothing can be made there (%v); "+
			"give the user that pghad runs as write permission, or write a path further down", parent, err))
	}
	if !exists {
		return nil
	}
	entries, err := os.ReadDir(dir)
	switch {
	case err != nil:
		return cfg.Problem(key, fmt.Sprintf("%v; run pghad as root or as the user that owns it", err))
	case len(entries) == 0:
		return nil
	}
	// A half-made one is ours to repair if the node has begun to work here.
	for _, path := range []string{filepath.Join(dir, "PG_VERSION"), filepath.Join(cfg.Postgres.StateDir, "state.json")} {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
	}
	return cfg.Problem(key, dir+" is not empty and holds no PostgreSQL data; empty it, or write another path")
}

func checkStateDir(cfg *config.Config) error {
	const key = "postgres.state_dir"
	dir := cfg.Postgres.StateDir
	exists, err := checkDirectory(cfg, key, dir)
	if err != nil {
		return err
	}
	if !exists {
		dir = filepath.Dir(dir)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return cfg.Problem(key, fmt.Sprintf("nothing can be made in %s (%v); give the user that pghad runs as write permission there", dir, err))
	}
	return nil
}

// checkDirectory refuses a path that is no directory and could not become one,
// and reports whether it exists.
func checkDirectory(cfg *config.Config, key, dir string) (exists bool, err error) {
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return true, nil
	case err == nil:
		return false, cfg.Problem(key, dir+" is not a directory; write the path of one, or of one that can be made")
	case !errors.Is(err, os.ErrNotExist):
		return false, cfg.Problem(key, fmt.Sprintf("%v; write the path of a directory that pghad may use", err))
	}
	if _, err := os.Stat(filepath.Dir(dir)); err != nil {
		return false, cfg.Problem(key, filepath.Dir(dir)+" does not exist; make it, or write another path")
	}
	return false, nil
}

// checkLog refuses a log file that could not be made. The default one is in the
// state directory.
func checkLog(cfg *config.Config) error {
	dir := filepath.Dir(cfg.Postgres.Log)
	if cfg.Postgres.Log == "" || dir == cfg.Postgres.StateDir {
		return nil
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return cfg.Problem("postgres.log", dir+" is not a directory; make it, or write another path")
	}
	return nil
}

// checkPort refuses an address that PostgreSQL could not listen at. A server
// that runs from our own data directory already is the one to be taken over.
func checkPort(ctx context.Context, cfg *config.Config, host string) error {
	if ownServerRuns(cfg.Postgres.DataDir) {
		return nil
	}
	address := net.JoinHostPort(host, strconv.Itoa(cfg.Postgres.Port))
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err == nil {
		_ = listener.Close()
		return nil
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return cfg.Problem("postgres.port", address+" is used by another program; stop that one, or write another port")
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return cfg.Problem("postgres.listen", host+" is not an address of this machine; write one that is")
	}
	return cfg.Problem("postgres.listen", fmt.Sprintf("PostgreSQL could not listen there: %v; write an address of this machine, and a port that is free", err))
}

// ownServerRuns reports whether the postmaster that postmaster.pid names runs
// from this data directory: that is its working directory.
func ownServerRuns(dataDir string) bool {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid")) //nolint:gosec // the operator names the directory
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 0 {
		return false
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return false
	}
	resolved, err := filepath.EvalSymlinks(dataDir)
	return err == nil && cwd == resolved
}

// checkCluster refuses data of another cluster. Where the store cannot be
// asked now, the node finds it out later.
func checkCluster(ctx context.Context, cfg *config.Config, store dcs.Store) (storeErr string, err error) {
	keys, err := record.NewKeys(cfg.Namespace, cfg.Cluster)
	if err != nil {
		return "", cfg.Problem("cluster", err.Error())
	}
	asked, cancel := context.WithTimeout(ctx, cfg.Timing.Request)
	defer cancel()
	kv, err := store.Get(asked, keys.Initialize())
	if errors.Is(err, dcs.ErrNotFound) {
		return "", nil // no cluster yet
	}
	if err != nil {
		return err.Error(), nil // the node tries again
	}
	recorded := strings.TrimSpace(string(kv.Value))
	local, err := systemID(cfg.Postgres.DataDir)
	switch {
	case errors.Is(err, os.ErrNotExist) || recorded == "":
		return "", nil // no data yet, or a record that was emptied
	case err != nil:
		return "", cfg.Problem("postgres.data_dir", fmt.Sprintf("%v; write the path of a data directory, or of an empty one", err))
	case local != recorded:
		return "", cfg.Problem("postgres.data_dir", fmt.Sprintf(
			"%s holds data of another cluster (system identifier %s, cluster %s has %s); write another directory, or the right cluster",
			cfg.Postgres.DataDir, local, cfg.Cluster, recorded))
	}
	return "", nil
}

// systemID reads PostgreSQL's system identifier, with which the control file
// begins since version 8.
func systemID(dataDir string) (string, error) {
	path := filepath.Join(dataDir, "global", "pg_control")
	file, err := os.Open(path) //nolint:gosec // the operator names the directory
	if err != nil {
		return "", fmt.Errorf("control file: %w", err)
	}
	defer file.Close() //nolint:errcheck // read only
	var raw [8]byte
	if _, err := io.ReadFull(file, raw[:]); err != nil {
		return "", fmt.Errorf("control file %s: %w", path, err)
	}
	return strconv.FormatUint(binary.NativeEndian.Uint64(raw[:]), 10), nil
}

// listenAddress is the address that others reach the server at: the configured
// one, else that from which this machine reaches the store.
func listenAddress(ctx context.Context, cfg *config.Config, logger *slog.Logger) (string, error) {
	if cfg.Postgres.Listen != "" {
		warnLoopback(ctx, cfg, logger)
		return cfg.Postgres.Listen, nil
	}
	var reasons []string
	for _, address := range cfg.DCS.Addresses() {
		// Nothing is sent: connecting a datagram socket only asks for the route.
		conn, err := (&net.Dialer{Timeout: cfg.Timing.Request}).DialContext(ctx, "udp", address)
		if err != nil {
			reasons = append(reasons, err.Error())
			continue
		}
		host, _, err := net.SplitHostPort(conn.LocalAddr().String())
		_ = conn.Close()
		if err == nil {
			return host, nil
		}
	}
	return "", cfg.Problem("postgres.listen", fmt.Sprintf(
		"is not set, and there is no route to the store to take this node's address from (%s); write it", strings.Join(reasons, ", ")))
}

// warnLoopback warns of an address that leads every machine to itself.
func warnLoopback(ctx context.Context, cfg *config.Config, logger *slog.Logger) {
	if !loopback(ctx, cfg.Postgres.Listen) {
		return
	}
	for _, address := range cfg.DCS.Addresses() {
		if at, _, err := net.SplitHostPort(address); err == nil && loopback(ctx, at) {
			return // everything is on one machine
		}
	}
	logger.WarnContext(ctx, "postgres.listen leads to this machine only; other nodes cannot reach this server", "listen", cfg.Postgres.Listen)
}

func loopback(ctx context.Context, host string) bool {
	addresses, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return false
	}
	for _, a := range addresses {
		if !a.IP.IsLoopback() {
			return false
		}
	}
	return len(addresses) > 0
}
