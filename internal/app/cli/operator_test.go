package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/cli"
	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/testbed"
	"github.com/pghad/pghad/pg"
)

// stage is a cluster that consists of its records only: a leads in term 8, b and
// c stream. The nodes are played by the test.
type stage struct {
	t       *testing.T
	store   dcs.Store
	keys    record.Keys
	address string
	name    string
	flags   []string
}

func newStage(t *testing.T, server *testbed.EtcdServer, name string) *stage {
	t.Helper()
	keys, err := record.NewKeys("service", name)
	require.NoError(t, err)
	s := &stage{t: t, store: openStore(t, server), keys: keys, address: server.Endpoints()[0], name: name}
	s.flags = []string{"--dcs-endpoints", s.address, "--cluster", name}
	lives := []quorum.Member{{Node: "a", Incarnation: "1"}, {Node: "b", Incarnation: "1"}, {Node: "c", Incarnation: "1"}}
	s.put(map[string]any{
		keys.Initialize(): "7301234567890123456",
		keys.Leader():     "a",
		keys.Quorum(): record.Quorum{
			Format: 1, Version: 12, Nonce: "q", Config: quorum.Config{Mode: quorum.ModeQuorum, Primary: lives[0], Members: lives[1:], K: 1},
		},
		keys.FailoverState(): record.FailoverState{Format: 1, ID: 8, Nonce: "eight", Phase: record.PhaseTaken, Winner: lives[0]},
		keys.History():       record.History{{ID: 8, Primary: "a", Timeline: 4}},
		keys.Status(): record.Status{Format: 1, Term: 8, Leader: "a", Flushed: 0x6000000, Gate: "open", Nodes: map[string]record.NodeStatus{
			"b": {Stream: "streaming"}, "c": {Stream: "streaming"},
		}},
		keys.ReplicsInfo(): record.ReplicsInfo{Format: 1, Senders: []pg.Walsender{
			{Name: "b.1", State: "streaming", Flush: 0x6000000, Replay: 0x5ffff00},
			{Name: "c.1", State: "streaming", Flush: 0x5000000, Replay: 0x4000000},
		}},
		keys.Alive("a"):  "a",
		keys.Member("a"): record.Member{Format: 1, Role: "primary", State: "running", Incarnation: "1", Priority: 1, Pledge: 8},
		keys.Member("b"): record.Member{Format: 1, Role: "replica", State: "streaming", Incarnation: "1", Priority: 1, Pledge: 8},
		keys.Member("c"): record.Member{Format: 1, Role: "replica", State: "streaming", Incarnation: "1", Priority: 1, Pledge: 8},
	})
	return s
}

// put writes records in one transaction: a text as it is, nil as a deletion,
// anything else as JSON.
func (s *stage) put(values map[string]any) {
	s.t.Helper()
	var txn dcs.Txn
	for key, value := range values {
		op := dcs.Op{Key: key}
		switch v := value.(type) {
		case nil:
			op.Delete = true
		case string:
			op.Value = []byte(v)
		default:
			op.Value = record.Encode(v)
		}
		txn.Then = append(txn.Then, op)
	}
	_, err := s.store.Commit(context.Background(), txn)
	require.NoError(s.t, err)
}

func (s *stage) records() record.Cluster {
	s.t.Helper()
	now, err := ha.ReadRecords(context.Background(), s.store, s.keys)
	require.NoError(s.t, err)
	return now
}

// when waits until the records are as wanted, and then plays a part.
func (s *stage) when(wanted func(record.Cluster) bool, play func()) (wait func()) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		for range s.store.Watch(ctx, s.keys.Prefix()) {
			if now, err := ha.ReadRecords(ctx, s.store, s.keys); err == nil && wanted(now) {
				play()
				return
			}
		}
	}()
	return func() { <-done }
}

func scheduled(now record.Cluster) bool {
	return now.SwitchoverState.Value == record.SwitchoverScheduled && !now.SwitchoverLock.Held()
}

// advance writes what the primary would write of the switchover that is there.
func (s *stage) advance(phase record.SwitchoverPhase, reason string) {
	now := s.records().Switchover.Value
	now.Term, now.Target, now.Reason = 8, quorum.Member{Node: "b", Incarnation: "1"}, reason
	s.put(map[string]any{s.keys.SwitchoverState(): string(phase), s.keys.SwitchoverMaster(): now})
}

// lead makes b the primary of term 9.
func (s *stage) lead() {
	s.put(map[string]any{s.keys.Leader(): nil})
	b := quorum.Member{Node: "b", Incarnation: "1"}
	recorded := s.records().Quorum.Value
	recorded.Config = recorded.After(b)
	s.put(map[string]any{
		s.keys.Leader():        "b",
		s.keys.Quorum():        recorded,
		s.keys.FailoverState(): record.FailoverState{Format: 1, ID: 9, Nonce: "nine", Phase: record.PhaseTaken, Winner: b},
		s.keys.History():       record.History{{ID: 8, Primary: "a", Timeline: 4}, {ID: 9, Primary: "b", Timeline: 5}},
	})
}

// run runs a command of an operator on the cluster.
func (s *stage) run(ctx context.Context, args ...string) result {
	return pghadEnv(ctx, []string{"USER=jo"}, append(args, s.flags...)...)
}

func TestSwitchoverUsage(t *testing.T) {
	t.Parallel()
	const where = " --cluster x --dcs-endpoints http://127.0.0.1:1"
	for args, want := range map[string]string{
		"switchover":                              "there is no terminal to ask on: write --yes",
		"switchover --yes -o yaml":                `--output "yaml" is unknown: write table or json`,
		"switchover --yes --timeout 5":            `invalid argument "5" for "--timeout" flag: time: missing unit in duration "5"`,
		"switchover --timeout -1s":                "--timeout -1s is not above zero",
		"switchover --cancel --to b":              "--cancel and --to contradict each other",
		"switchover b":                            `unknown command "b" for "pghad switchover"`,
		"maintenance":                             "maintenance alone does nothing: write enable, disable or show after it",
		"maintenance on":                          `unknown command "on" for "pghad maintenance"`,
		"maintenance enable --force":              "unknown flag: --force",
		"maintenance disable --force":             "there is no terminal to ask on: write --yes",
		"maintenance disable --yes":               "--yes needs --force",
		"maintenance show --wait":                 "unknown flag: --wait",
		"maintenance enable --timeout 1s":         "--timeout needs --wait",
		"maintenance enable --wait --timeout -1s": "--timeout -1s is not above zero",
		"why b": `unknown command "b" for "pghad why"`,
	} {
		if args != "maintenance" && args != "maintenance on" {
			args += where
		}
		got := pghad(t.Context(), strings.Fields(args)...)
		require.Equal(t, result{2, "", "pghad: " + want + "; see pghad --help\n"}, got, args)
	}
}

// TestOperatorWithoutStore: nothing can be asked for where the store cannot be
// reached, and the words are those of every command.
func TestOperatorWithoutStore(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"switchover --yes", "switchover --cancel", "maintenance show", "maintenance enable", "maintenance disable", "maintenance disable --force --yes", "why",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			got := pghadEnv(t.Context(), []string{"PGHAD_TIMING_REQUEST=200ms"},
				append(strings.Fields(args), "--cluster", "x", "--dcs-endpoints", "http://127.0.0.1:1")...)
			require.Equal(t, 3, got.code, got.err)
			require.Empty(t, got.out)
			require.Contains(t, got.err, "pghad: cluster x cannot be read from the store at http://127.0.0.1:1: ")
			require.Contains(t, got.err, "; is the store running, and is dcs.endpoints right?\n")
		})
	}
}

func TestSwitchover(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)

	t.Run("done", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "done")
		wait := s.when(scheduled, func() {
			s.advance(record.SwitchoverPreparing, "b has 256 bytes of WAL to replay")
			s.advance(record.SwitchoverStopping, "")
			s.advance(record.SwitchoverCommitted, "")
			s.lead()
			s.advance(record.SwitchoverDone, "")
		})
		got := s.run(t.Context(), "switchover", "--to", "b", "--yes")
		wait()
		require.Equal(t, 0, got.code, got.err)
		require.Regexp(t, `^done: b leads in term 9 on timeline 5, after \d+\.\ds\n$`, got.out)
		require.Contains(t, got.err, `cluster done: a hands over to b
  from      a, which leads in term 8 on timeline 4
  to        b: lacks 0 B of WAL, and has 256 B to replay
  stays     c: lacks 16 MiB of WAL, and has 32 MiB to replay
  cost      writes go on until b is close, at most 10s; then all sessions of a end, and nobody can write
            until b has taken over: mostly a second or two, at most 15s
  otherwise a goes on as the primary; if b fails after the hand-over, an election decides
  limit     35s in all
`)
		asked := s.records().Switchover.Value
		require.Equal(t, "b", asked.Destination)
		require.True(t, strings.HasPrefix(asked.By, "jo@"), asked.By)
	})

	t.Run("done, as JSON", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "json")
		wait := s.when(scheduled, func() {
			s.advance(record.SwitchoverCommitted, "")
			s.lead()
			s.advance(record.SwitchoverDone, "")
		})
		got := s.run(t.Context(), "switchover", "--yes", "-o", "json")
		wait()
		require.Equal(t, 0, got.code, got.err)
		require.Contains(t, got.err, "  to        the best of the quorum, which is b now: ")
		text := regexp.MustCompile(`"seconds": [\d.e-]+`).ReplaceAllString(got.out, `"seconds": 1`)
		require.JSONEq(t, `{"id": "`+s.records().Switchover.Value.ID+`", "outcome": "done", "phase": "done", "from": "a", "target": "b",
			"leader": "b", "term": 9, "timeline": 5, "reason": "", "seconds": 1}`, text)
	})

	t.Run("rolled back", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "back")
		wait := s.when(scheduled, func() { s.advance(record.SwitchoverFailed, "not ready in 10s: b does not stream") })
		got := s.run(t.Context(), "switchover", "--to", "b", "--yes")
		wait()
		require.Equal(t, 1, got.code)
		require.Empty(t, got.out)
		require.Equal(t, "pghad: no switchover, a is the primary as before: not ready in 10s: b does not stream", lastLine(got.err))
	})

	t.Run("failed, another leads", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "other")
		wait := s.when(scheduled, func() {
			s.lead()
			s.advance(record.SwitchoverFailed, "the primary of term 8 did not come to its end; b leads in term 9")
		})
		got := s.run(t.Context(), "switchover", "--yes", "-o", "json")
		wait()
		require.Equal(t, 3, got.code)
		require.Contains(t, got.out, `"outcome": "failed"`)
		require.Equal(t, "pghad: the switchover failed, and b leads in term 9: the primary of term 8 did not come to its end; b leads in term 9", lastLine(got.err))
	})

	t.Run("failed, nobody leads", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "none")
		wait := s.when(scheduled, func() {
			s.put(map[string]any{s.keys.Leader(): nil})
			s.advance(record.SwitchoverFailed, "")
		})
		got := s.run(t.Context(), "switchover", "--yes")
		wait()
		require.Equal(t, 3, got.code)
		require.Equal(t, "pghad: the switchover failed, and nobody leads: no reason is recorded; see pghad why", lastLine(got.err))
	})

	t.Run("another one in its place", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "replaced")
		wait := s.when(scheduled, func() {
			s.put(map[string]any{s.keys.SwitchoverState(): "scheduled", s.keys.SwitchoverMaster(): record.Switchover{ID: "other"}})
		})
		got := s.run(t.Context(), "switchover", "--yes")
		wait()
		require.Equal(t, 4, got.code)
		require.Contains(t, lastLine(got.err), "pghad: how the switchover has ended is not known: ")
	})

	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "refused")
		got := s.run(t.Context(), "switchover", "--to", "a", "--yes")
		require.Equal(t, result{1, "", "pghad: switchover refused: a is the primary already\n"}, got)
		require.False(t, s.records().SwitchoverState.Exists(), "nothing was written")
	})

	t.Run("no cluster", func(t *testing.T) {
		t.Parallel()
		got := pghad(t.Context(), "switchover", "--yes", "--cluster", "nowhere", "--dcs-endpoints", server.Endpoints()[0])
		require.Equal(t, result{1, "", "pghad: switchover refused: nobody holds `leader`\n"}, got)
	})
}

// TestSwitchoverGivenUp: the wait ends before the switchover does.
func TestSwitchoverGivenUp(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)

	t.Run("not taken up", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "waiting")
		got := s.run(t.Context(), "switchover", "--yes", "--timeout", "1s")
		require.Equal(t, 1, got.code, got.err)
		require.Contains(t, got.err, "asked for; a has not taken it up yet\n")
		require.Equal(t, "pghad: it was not done in 1s: the switchover is cancelled, the primary had not taken it up; nothing was changed", lastLine(got.err))
		now := s.records()
		require.Equal(t, record.SwitchoverFailed, now.SwitchoverState.Value)
		require.Contains(t, now.Switchover.Value.Reason, "it was cancelled before the primary took it up, by jo@")
	})

	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "interrupted")
		ctx, interrupt := context.WithCancel(t.Context())
		wait := s.when(scheduled, interrupt)
		got := s.run(ctx, "switchover", "--yes", "-o", "json")
		wait()
		require.Equal(t, 1, got.code, got.err)
		require.Contains(t, got.out, `"outcome": "cancelled"`)
		require.Equal(t, "pghad: interrupted: the switchover is cancelled, the primary had not taken it up; nothing was changed", lastLine(got.err))
		require.Equal(t, record.SwitchoverFailed, s.records().SwitchoverState.Value)
	})

	t.Run("under way", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "underway")
		wait := s.when(scheduled, func() { s.advance(record.SwitchoverPreparing, "b is far behind") })
		got := s.run(t.Context(), "switchover", "--yes", "--timeout", "1s", "-o", "json")
		wait()
		require.Equal(t, 4, got.code, got.err)
		require.Contains(t, got.out, `"outcome": "unknown"`)
		require.Contains(t, got.out, `"phase": "preparing"`)
		require.Equal(t, "pghad: it was not done in 1s: the switchover is preparing and goes on without being waited for; see pghad why", lastLine(got.err))
		require.Equal(t, record.SwitchoverPreparing, s.records().SwitchoverState.Value)
	})

	t.Run("the lock is held", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, server, "held")
		s.put(map[string]any{s.keys.SwitchoverLock(): "kim"})
		got := s.run(t.Context(), "switchover", "--yes", "--timeout", "500ms")
		require.Equal(t, 1, got.code, got.err)
		require.Equal(t, "pghad: it was not done in 500ms: the switchover has not been asked for; nothing was changed", lastLine(got.err))
	})
}

func TestSwitchoverCancel(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	s := newStage(t, server, "orders")
	require.Equal(t, result{1, "", "pghad: cancellation refused: there is no such switchover under way\n"}, s.run(t.Context(), "switchover", "--cancel"))
	s.put(map[string]any{s.keys.SwitchoverState(): "scheduled", s.keys.SwitchoverMaster(): record.Switchover{Hostname: "a", Destination: "b"}})
	require.Equal(t, result{0, "cancelled: the primary had not taken it up\n", ""}, s.run(t.Context(), "switchover", "--cancel"))
	require.Equal(t, record.SwitchoverFailed, s.records().SwitchoverState.Value)

	s.put(map[string]any{s.keys.SwitchoverState(): "scheduled", s.keys.SwitchoverMaster(): record.Switchover{Hostname: "a", Destination: "b"}})
	got := s.run(t.Context(), "switchover", "--cancel", "-o", "json")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, `"outcome": "cancelled"`)

	s.put(map[string]any{s.keys.SwitchoverState(): "stopping", s.keys.SwitchoverMaster(): record.Switchover{Hostname: "a", Destination: "b"}})
	require.Equal(t, result{1, "", "pghad: cancellation refused: the switchover from a to b is stopping, only the primary can end it\n"},
		s.run(t.Context(), "switchover", "--cancel"))
}

// openTerminal makes a terminal: what is typed goes into keyboard.
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("SKIPPED: no terminal can be made here: %v", err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	fd := int(keyboard.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = terminal.Close() })
	return keyboard, terminal
}

// asked runs a command at a terminal and types the answer, if there is one, when
// the question has come.
func (s *stage) asked(ctx context.Context, answer string, args ...string) result {
	s.t.Helper()
	keyboard, terminal := openTerminal(s.t)
	var out bytes.Buffer
	errs := &lineWriter{wanted: "Type yes: ", seen: make(chan struct{})}
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Run(ctx, append(args, s.flags...), cli.Streams{In: terminal, Out: &out, Err: errs})
	}()
	select {
	case <-errs.seen:
		if answer != "" {
			_, err := keyboard.WriteString(answer)
			require.NoError(s.t, err)
		}
	case code := <-ended:
		return result{code, out.String(), errs.text()}
	}
	code := <-ended
	if answer == "" { // lets go of the terminal
		_, _ = keyboard.WriteString("\n")
	}
	return result{code, out.String(), errs.text()}
}

func TestSwitchoverAsks(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	s := newStage(t, server, "asked")
	for _, answer := range []string{"no\n", "\n", "yesterday\n"} {
		got := s.asked(t.Context(), answer, "switchover")
		require.Equal(t, 1, got.code, answer)
		require.Contains(t, got.err, "Switch over? Type yes: pghad: not confirmed; nothing was changed\n")
	}
	ctx, interrupt := context.WithTimeout(t.Context(), time.Second)
	defer interrupt()
	got := s.asked(ctx, "", "switchover")
	require.Equal(t, 1, got.code)
	require.Equal(t, "pghad: not confirmed; nothing was changed", lastLine(got.err))
	require.False(t, s.records().SwitchoverState.Exists(), "nothing was written")

	wait := s.when(scheduled, func() { s.advance(record.SwitchoverFailed, "so it is") })
	got = s.asked(t.Context(), "yes\n", "switchover", "--to", "c")
	wait()
	require.Equal(t, 1, got.code)
	require.Contains(t, lastLine(got.err), "pghad: no switchover, a is the primary as before: so it is")

	got = s.asked(t.Context(), "yes\n", "switchover", "--to", "x")
	require.Equal(t, 1, got.code)
	require.NotContains(t, got.err, "Type yes", "what is not possible is not asked about")
}

func TestMaintenance(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	s := newStage(t, server, "orders")
	keep := func(keeps bool, nodes ...string) {
		for _, node := range nodes {
			s.put(map[string]any{s.keys.Member(node): record.Member{Format: 1, Incarnation: "1", Maintenance: keeps, Why: "rests"}})
		}
	}
	s.put(map[string]any{s.keys.Member("c"): nil})
	require.Equal(t, result{0, `maintenance is off

NODE  AGENT    KEEPS TO IT  WHY
a     present  no
b     present  no
c     absent   -
`, ""}, s.run(t.Context(), "maintenance", "show"))

	got := s.run(t.Context(), "maintenance", "enable")
	require.Equal(t, 0, got.code, got.err)
	require.Regexp(t, `^maintenance is on since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ; the primary then was a\n`, got.out)
	since := s.records().Maintenance.Since.Value

	got = s.run(t.Context(), "maintenance", "enable", "--wait", "--timeout", "500ms")
	require.Equal(t, result{3, "", "waiting for a, b\npghad: not complete in 500ms; what was asked for stands: waiting for a, b\n"}, got)
	wait := s.when(func(now record.Cluster) bool { return now.Maintenance.On() }, func() { keep(true, "a", "b") })
	got = s.run(t.Context(), "maintenance", "enable", "--wait", "-o", "json")
	wait()
	require.Equal(t, 0, got.code, got.err)
	require.JSONEq(t, `{"mode": "enable", "since": "`+since+`", "primary": "a", "nodes": [
		{"name": "a", "present": true, "keeps": true, "why": "rests"},
		{"name": "b", "present": true, "keeps": true, "why": "rests"},
		{"name": "c", "present": false, "keeps": false, "why": ""}]}`, got.out)

	got = s.run(t.Context(), "switchover", "--yes")
	require.Equal(t, result{1, "", "pghad: switchover refused: maintenance is enable: nobody changes roles\n"}, got)

	got = s.run(t.Context(), "maintenance", "disable")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "maintenance is being left; it lasts until a has confirmed\n")
	got = s.run(t.Context(), "maintenance", "disable", "--force", "--yes")
	require.Equal(t, result{1, "", "pghad: force refused: the agent of a runs and can confirm the end; stop it and PostgreSQL there first\n"}, got)

	wait = s.when(func(now record.Cluster) bool { return now.Maintenance.Mode.Value == record.MaintenanceLeaving }, func() {
		keep(false, "b", "a")
		s.put(map[string]any{s.keys.Maintenance(): "", s.keys.MaintenanceTS(): "", s.keys.MaintenanceMaster(): ""})
	})
	got = s.run(t.Context(), "maintenance", "disable", "--wait")
	wait()
	require.Equal(t, 0, got.code, got.err)
	require.True(t, strings.HasPrefix(got.out, "maintenance is off\n"), got.out)

	require.Equal(t, 0, s.run(t.Context(), "maintenance", "enable").code)
	s.put(map[string]any{s.keys.Member("a"): nil, s.keys.Alive("a"): nil})
	got = s.asked(t.Context(), "no\n", "maintenance", "disable", "--force")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "Maintenance ends without a. That claims: no PostgreSQL of a runs, nor can start by itself.\n")
	require.True(t, s.records().Maintenance.On())
	got = s.asked(t.Context(), "YES\n", "maintenance", "disable", "--force")
	require.Equal(t, 0, got.code, got.err)
	require.False(t, s.records().Maintenance.On())
	got = s.run(t.Context(), "maintenance", "disable", "--force", "--yes", "--wait")
	require.Equal(t, 0, got.code, got.err)
}

func TestWhy(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	s := newStage(t, server, "orders")
	got := s.run(t.Context(), "why")
	require.Equal(t, 0, got.code, got.err)
	require.True(t, strings.HasPrefix(got.out, "Writes are accepted: a leads in term 8 on timeline 4, and each commit is on a and any 1 of b, c.\n"), got.out)

	s.put(map[string]any{s.keys.Leader(): nil})
	file := filepath.Join(t.TempDir(), "pghad.yaml")
	require.NoError(t, os.WriteFile(file, []byte("cluster: orders\ndcs: {endpoints: [\""+s.address+"\"]}\n"), 0o600))
	got = pghad(t.Context(), "why", "-c", file, "-o", "json")
	require.Equal(t, 0, got.code, got.err)
	var explanation clusterview.Explanation
	require.NoError(t, json.Unmarshal([]byte(got.out), &explanation))
	require.Equal(t, clusterview.VerdictNobody, explanation.Verdict.Code)
}
