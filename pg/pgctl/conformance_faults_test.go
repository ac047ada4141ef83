package pgctl_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// pid finds a process of a server.
func (s *realServers) pid(node, process string) (int, error) {
	if session, ok := strings.CutPrefix(process, "backend "); ok {
		c, err := s.client(session)
		if err != nil {
			return 0, err
		}
		return int(c.conn.PID()), nil
	}
	if process == "postmaster" {
		pid := s.nodes[node].status().Postgres
		if pid <= 0 { // a signal to it would be one to this program
			return 0, fmt.Errorf("%s: %w", node, pg.ErrNotRunning)
		}
		return pid, nil
	}
	question := "SELECT pid FROM pg_stat_activity WHERE backend_type = '" + process + "'"
	switch name, isSender := strings.CutPrefix(process, "sender "); {
	case isSender:
		question = "SELECT pid FROM pg_stat_replication WHERE application_name = '" + name + "'"
	case process == "receiver":
		question = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'"
	}
	text, err := s.one(node, question)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s has no process %q", node, process)
	}
	return pid, nil
}

// Freeze implements pgtest.Faults.
func (s *realServers) Freeze(node, process string) error {
	pid, err := s.pid(node, process)
	if err != nil {
		return err
	}
	if s.frozen == nil {
		s.frozen = map[string]int{}
	}
	s.frozen[node+"/"+process] = pid
	return syscall.Kill(pid, syscall.SIGSTOP)
}

// Thaw implements pgtest.Faults.
func (s *realServers) Thaw(node, process string) error {
	pid := s.frozen[node+"/"+process]
	if pid == 0 {
		return fmt.Errorf("%s of %s is not frozen", process, node)
	}
	delete(s.frozen, node+"/"+process)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

func (s *realServers) thawAll() {
	for _, pid := range s.frozen {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
}

// Kill implements pgtest.Faults.
func (s *realServers) Kill(node, process string) error {
	pid, err := s.pid(node, process)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// Cut implements pgtest.Faults.
func (s *realServers) Cut(from, to string) error {
	s.links[from+">"+to].set(func(l *link) { l.there.cut = true })
	s.links[to+">"+from].set(func(l *link) { l.back.cut = true })
	return nil
}

// CutAfter implements pgtest.Faults.
func (s *realServers) CutAfter(from, to string, size pg.LSN) error {
	s.links[from+">"+to].set(func(l *link) { l.there.limit = int(size) })
	s.links[to+">"+from].set(func(l *link) { l.back.limit = int(size) })
	return nil
}

// Heal implements pgtest.Faults.
func (s *realServers) Heal() error {
	for _, l := range s.links {
		l.set(func(l *link) { l.there, l.back = flow{}, flow{} })
	}
	return nil
}

// Expire implements pgtest.Faults.
func (s *realServers) Expire(a, b string) error {
	s.links[a+">"+b].breakAll()
	s.links[b+">"+a].breakAll()
	return nil
}

// Nobody can make a file in a directory that its owner may not write: to a server
// that is like a full disk.
const (
	fullMode = 0o500
	freeMode = 0o700
)

// FillDisk implements pgtest.Faults.
func (s *realServers) FillDisk(node string) error { return os.Chmod(s.walDir(node), fullMode) }

// FreeDisk implements pgtest.Faults.
func (s *realServers) FreeDisk(node string) error { return os.Chmod(s.walDir(node), freeMode) }

// PowerOff implements pgtest.Faults. The power stays on here.
func (s *realServers) PowerOff(string) error { return errors.ErrUnsupported }

// LoseDisk implements pgtest.Faults.
func (s *realServers) LoseDisk(node string) error {
	n := s.nodes[node]
	return errors.Join(n.Stop(n.ctx(), pg.StopImmediate), os.RemoveAll(n.cfg.DataDir))
}

// WriteHistory implements pgtest.Faults.
func (s *realServers) WriteHistory(node string, t pg.Timeline, h pg.History) error {
	s.nodes[node].place(s.historyPath(node, t), h.String())
	return nil
}

// RemoveHistory implements pgtest.Faults.
func (s *realServers) RemoveHistory(node string, t pg.Timeline) error {
	return os.Remove(s.historyPath(node, t))
}

// LeaveLock implements pgtest.Faults.
func (s *realServers) LeaveLock(node string) error {
	other := exec.CommandContext(s.t.Context(), "sleep", "600")
	if err := other.Start(); err != nil {
		return err
	}
	s.t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	n := s.nodes[node]
	text := fmt.Sprintf("%d\n%s\n1700000000\n%d\n%s\n127.0.0.1\n  5432001         0\nready   \n", other.Process.Pid, n.cfg.DataDir, n.cfg.Port, n.cfg.StateDir)
	n.place(filepath.Join(n.cfg.DataDir, "postmaster.pid"), text)
	return nil
}

// torn is how long the record of Tear is; one message of a walsender has at most
// 128 KB of it.
const torn = 400_000

// Tear implements pgtest.Faults.
func (s *realServers) Tear(row, from, to string) error {
	before := s.nodes[to].status().Received
	err := errors.Join(s.CutAfter(from, to, torn/2), s.Connect(row, from, pgtest.SessionOptions{}))
	if err != nil {
		return err
	}
	err = s.execute(row, row, fmt.Sprintf("BEGIN; SELECT pg_logical_emit_message(true, 'torn', repeat('x', %d)); INSERT INTO rows VALUES ('%s'); COMMIT", torn, row))
	if err != nil {
		return err
	}
	if !s.Await(func() bool { return s.nodes[to].status().Received > before }) {
		return errors.New("nothing of the record arrives")
	}
	return nil
}

// CrashPromotion implements pgtest.Faults. What a promotion opens next is made to
// stop it there: a directory in which it can make no file, a history file of its
// parent that is a pipe, a segment that it must not write.
func (s *realServers) CrashPromotion(node, before string) error {
	n := s.nodes[node]
	seen := n.status().Generation
	var err error
	switch before {
	case "signal":
		err = errors.Join(s.FillDisk(node), s.SignalPromotion(node), awaitEnd(n, seen), s.FreeDisk(node))
	case "history", "record":
		err = s.crashWhileHeld(n, before == "record")
	default:
		err = fmt.Errorf("a promotion has no step %q", before)
	}
	return err
}

func awaitEnd(n *node, seen uint64) error {
	_, err := n.WaitChange(n.ctx(), seen)
	return err
}

// crashWhileHeld holds a promotion where it copies its parent's history, and kills
// the server there, or has it fail at the next thing that it writes.
func (s *realServers) crashWhileHeld(n *node, fail bool) error {
	seen := n.status().Generation
	startup, err := s.pid(n.name, "startup")
	if err != nil {
		return err
	}
	pipe := n.walFile("00000001.history")
	data, err := os.Stat(n.cfg.DataDir)
	if err != nil {
		return err
	}
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), chownLike(pipe, data), s.SignalPromotion(n.name)); err != nil {
		return err
	}
	signal := filepath.Join(n.cfg.DataDir, "standby.signal")
	if !s.Await(func() bool { _, err := os.Stat(signal); return errors.Is(err, os.ErrNotExist) }) {
		return errors.New("the promotion does not begin")
	}
	if !fail {
		return errors.Join(syscall.Kill(startup, syscall.SIGKILL), awaitEnd(n, seen), os.Remove(pipe))
	}
	segments, err := filepath.Glob(n.walFile("00000002????????????????"))
	if err != nil || len(segments) != 1 {
		return fmt.Errorf("the new timeline has segments %v: want one: %w", segments, errors.Join(err, pgtest.ErrRefused))
	}
	if err := os.Chmod(segments[0], 0o400); err != nil {
		return err
	}
	release, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(release.Close(), awaitEnd(n, seen), os.Chmod(segments[0], 0o600), os.Remove(pipe))
}

// SignalPromotion implements pgtest.Operator.
func (s *realServers) SignalPromotion(node string) error {
	_, err := s.query(node, "SELECT pg_promote(wait => false)")
	return err
}

// SwitchWAL implements pgtest.Operator.
func (s *realServers) SwitchWAL(node string) error {
	_, err := s.query(node, "SELECT pg_switch_wal()")
	return err
}

// Load implements pgtest.Operator.
func (s *realServers) Load(node string, size pg.LSN) error {
	const each = 32 << 10
	statement := fmt.Sprintf("SELECT count(pg_logical_emit_message(true, 'load', repeat('x', %d))) FROM generate_series(1, %d)", each, max(1, size/each))
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Minute)
	defer cancel()
	c, err := dial(ctx, s.nodes[node], "postgres", map[string]string{"synchronous_commit": "local"})
	if err != nil {
		return refusal(err)
	}
	defer c.close()
	if _, err := c.conn.Exec(ctx, statement).ReadAll(); err != nil {
		return fmt.Errorf("load: %w: %w", pg.ErrNotRunning, err)
	}
	return nil
}

// PauseReplay implements pgtest.Operator.
func (s *realServers) PauseReplay(node string) error {
	if _, err := s.query(node, "SELECT pg_wal_replay_pause()"); err != nil {
		return err
	}
	paused := func() bool {
		state, err := s.one(node, "SELECT pg_get_wal_replay_pause_state()")
		return err == nil && state == "paused"
	}
	if !s.Await(paused) {
		return errors.New("replay is not paused")
	}
	return nil
}

// ResumeReplay implements pgtest.Operator.
func (s *realServers) ResumeReplay(node string) error {
	_, err := s.query(node, "SELECT pg_wal_replay_resume()")
	return err
}

// HoldReplay implements pgtest.Operator.
func (s *realServers) HoldReplay(node, primary string) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), recipePatience)
	defer cancel()
	c, err := dial(ctx, s.nodes[node], "postgres", nil)
	if err != nil {
		return refusal(err)
	}
	if s.holders == nil {
		s.holders = map[string]*client{}
	}
	s.holders[node] = c
	if _, err := c.conn.Exec(ctx, "BEGIN; SELECT count(*) FROM held").ReadAll(); err != nil {
		return err
	}
	_, err = s.query(primary, "TRUNCATE held")
	return err
}

// ReleaseReplay implements pgtest.Operator.
func (s *realServers) ReleaseReplay(node string) error {
	if c := s.holders[node]; c != nil {
		c.close()
	}
	return nil
}

// DropSlot implements pgtest.Operator.
func (s *realServers) DropSlot(node, slot string) error {
	_, err := s.query(node, "SELECT pg_drop_replication_slot('"+slot+"')")
	return err
}

// LimitSlots implements pgtest.Operator.
func (s *realServers) LimitSlots(node string, size pg.LSN) error {
	_, err := s.query(node, fmt.Sprintf("ALTER SYSTEM SET max_slot_wal_keep_size = '%dMB'", size>>20))
	if err == nil {
		_, err = s.query(node, "SELECT pg_reload_conf()")
	}
	return err
}

// Receive implements pgtest.Operator.
func (s *realServers) Receive(node, name string) error {
	n := s.nodes[node]
	tool := exec.CommandContext(s.t.Context(), filepath.Join(n.cfg.BinDir, "pg_receivewal"), "--synchronous", "--no-loop", "-D", s.t.TempDir(),
		"-d", fmt.Sprintf("host=127.0.0.1 port=%d user=replicator application_name=%s", n.cfg.Port, name))
	tool.Env = append(os.Environ(), "PGPASSWORD="+n.cfg.ReplicationPassword)
	if err := tool.Start(); err != nil {
		return err
	}
	s.t.Cleanup(func() {
		_ = tool.Process.Kill()
		_ = tool.Wait()
	})
	return nil
}
