package pgctl_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// failing makes every clone fail.
func failing(cfg *pgctl.Config) { cfg.CloneCommand = []string{"false"} }

func TestTooManyClonesFail(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	for _, then := range []pgctl.RejoinThen{pgctl.RejoinAlert, pgctl.RejoinClone, pgctl.RejoinHold} {
		t.Run(string(then), func(t *testing.T) {
			t.Parallel()
			b := newNode(t, "b", failing, func(cfg *pgctl.Config) {
				cfg.Rejoin = pgctl.RejoinPolicy{Attempts: 2, Within: time.Hour, Then: then}
			})
			for range 2 {
				_, err := b.Clone(b.ctx(), a.up("b"))
				require.ErrorContains(t, err, "false")
			}
			for range 2 {
				_, err := b.Clone(b.ctx(), a.up("b"))
				requireFault(t, err, pg.ErrTooManyAttempts, b.cfg.DataDir)
			}
			require.NoError(t, b.Close())
			b.cfg.CloneCommand = nil
			b.open()
			_, err := b.Clone(b.ctx(), a.up("b"))
			require.ErrorIs(t, err, pg.ErrTooManyAttempts, "also for the next controller")
			require.NoError(t, b.ReleaseRejoin(b.ctx()))
			_, err = b.Clone(b.ctx(), a.up("b"))
			require.NoError(t, err)
			require.NoFileExists(t, filepath.Join(b.cfg.StateDir, "attempts.json"), "a success forgets the failures")
		})
	}
}

// Failures count for a time only, unless somebody is to look.
func TestFailedClonesAreForgotten(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	for _, then := range []pgctl.RejoinThen{pgctl.RejoinAlert, pgctl.RejoinHold} {
		b := newNode(t, "b", failing, func(cfg *pgctl.Config) {
			cfg.Rejoin = pgctl.RejoinPolicy{Attempts: 1, Within: 10 * time.Millisecond, Then: then}
		})
		_, err := b.Clone(b.ctx(), a.up("b"))
		require.ErrorContains(t, err, "false")
		if then == pgctl.RejoinHold {
			require.NoError(t, b.Close())
			b.cfg.Rejoin.Within = time.Hour
			b.open()
			_, err = b.Clone(b.ctx(), a.up("b"))
			require.ErrorIs(t, err, pg.ErrTooManyAttempts)
			require.NoError(t, b.Close())
			b.cfg.Rejoin.Within = 10 * time.Millisecond
			b.open()
			_, err = b.Clone(b.ctx(), a.up("b"))
			require.ErrorIs(t, err, pg.ErrTooManyAttempts, "it is held")
			continue
		}
		b.await("it is tried again", func() bool {
			_, err = b.Clone(b.ctx(), a.up("b"))
			require.Error(t, err)
			return !errors.Is(err, pg.ErrTooManyAttempts)
		})
	}
}

// A clone that is called off is no failure.
func TestClonesThatAreCalledOffDoNotCount(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	b := newNode(t, "b", func(cfg *pgctl.Config) {
		cfg.CloneCommand = []string{"sleep", "3600"}
		cfg.Rejoin = pgctl.RejoinPolicy{Attempts: 1}
	})
	for range 3 {
		ctx, cancel := context.WithCancel(b.ctx())
		done := make(chan error, 1)
		go func() {
			_, err := b.Clone(ctx, a.up("b"))
			done <- err
		}()
		b.await("the clone has begun", func() bool {
			copying, ok := b.Copying()
			return ok && copying.How == "clone" && copying.From == a.up("b").Address()
		})
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	}
	_, ok := b.Copying()
	require.False(t, ok)
}

// Rewinds that fail give way to a clone.
func TestTooManyRewindsFail(t *testing.T) {
	t.Parallel()
	a, b := diverge(t, quick, func(cfg *pgctl.Config) { cfg.Rejoin.Attempts = 1 })
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	a.place(filepath.Join(a.cfg.StateDir, "attempts.json"), `{"rewind":["`+time.Now().Format(time.RFC3339)+`"]}`)
	_, err := a.Rewind(a.ctx(), b.up("a"))
	requireFault(t, err, pg.ErrRewindImpossible, a.cfg.DataDir)
	_, err = a.Clone(a.ctx(), b.up("a"))
	require.NoError(t, err)
	require.NoError(t, a.StartStandby(a.ctx(), b.up("a")))
	a.awaitStreaming(b)
}

// The user's own command makes the copy; what it leaves is looked at before the old
// data gives way.
func TestCloneByTheUsersCommand(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	backup := a.copied()
	a.sql("INSERT INTO t VALUES (1)")
	b := newStandby(t, "b", a, quick)
	require.NoError(t, b.Stop(b.ctx(), pg.StopFast))
	use := func(command ...string) {
		require.NoError(t, b.Close())
		b.cfg.CloneCommand = command
		b.open()
	}
	use("sh", "-c", "echo 15 > {dir}/PG_VERSION")
	_, err := b.Clone(b.ctx(), a.up("b"))
	require.ErrorContains(t, err, "the copy")
	use("sh", "-c", "cp -a "+backup+"/. {dir} && echo 12 > {dir}/PG_VERSION")
	_, err = b.Clone(b.ctx(), a.up("b"))
	require.ErrorIs(t, err, pg.ErrUnsupported)
	disk, err := b.OnDisk(b.ctx())
	require.NoError(t, err)
	require.True(t, disk.Clean, "the old data has stayed")

	use("sh", "-c", `test -r {passfile} && test {host}:{port} = `+a.up("b").Address()+` && echo "10/20 kB (50%), 0/1 tablespace" && cp -a `+backup+"/. {dir}")
	_, err = b.Clone(b.ctx(), a.up("b"))
	require.NoError(t, err)
	require.NoError(t, b.StartStandby(b.ctx(), a.up("b")))
	b.awaitStreaming(a)
	require.Equal(t, "1", b.sql("SELECT count(*) FROM t"))
}

// A clone says how far it is.
func TestCloneSaysHowFarItIs(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	b := newNode(t, "b", quick)
	done := make(chan error, 1)
	go func() {
		_, err := b.Clone(b.ctx(), a.up("b"))
		done <- err
	}()
	var most pg.Copying
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for ended := false; !ended; {
		select {
		case err := <-done:
			require.NoError(t, err)
			ended = true
		case <-look.C:
			if copying, ok := b.Copying(); ok && copying.Done >= most.Done {
				most = copying
			}
		}
	}
	require.NotZero(t, most.Total)
	require.NotZero(t, most.Done)
}

func TestMemberSlotsAreDroppedAfterATime(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick, func(cfg *pgctl.Config) { cfg.MemberSlotsTTL = time.Hour })
	a.sql("SELECT pg_create_physical_replication_slot('somebody', true)")
	require.NoError(t, a.EnsureSlots(a.ctx(), []pg.Slot{{Name: "x"}, {Name: "y"}}))
	require.NoError(t, a.EnsureSlots(a.ctx(), []pg.Slot{{Name: "x"}}))
	require.Equal(t, []string{"somebody", "x", "y"}, a.status().Slots, "y's member is absent for a short time")

	note := filepath.Join(a.cfg.StateDir, "slots.json")
	long := time.Now().Add(-2 * time.Hour).Format(time.RFC3339)
	a.place(note, `{"x":"`+long+`","y":"`+long+`"}`)
	require.NoError(t, a.EnsureSlots(a.ctx(), []pg.Slot{{Name: "x"}}))
	require.Equal(t, []string{"somebody", "x"}, a.status().Slots, "who was never asked for is not ours")
	require.NoError(t, a.EnsureSlots(a.ctx(), []pg.Slot{{Name: "x"}, {Name: "y"}}))
	require.Equal(t, []string{"somebody", "x", "y"}, a.status().Slots)

	// A slot in use is nobody's to drop.
	b := newStandby(t, "b", a, quick)
	require.NoError(t, b.Follow(b.ctx(), pg.Upstream{Host: "127.0.0.1", Port: a.cfg.Port, Name: "b", Slot: "y"}))
	a.await("slot in use", func() bool { return a.sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'y'") == "t" })
	a.place(note, `{"y":"`+long+`"}`)
	require.NoError(t, a.EnsureSlots(a.ctx(), []pg.Slot{{Name: "x"}}))
	require.Equal(t, []string{"somebody", "x", "y"}, a.status().Slots)
}

// A slot that has lost its WAL holds nothing, and newer versions let nobody use it.
func TestLostSlotIsMadeAnew(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick, func(cfg *pgctl.Config) {
		cfg.InitArgs = append(cfg.InitArgs, "--wal-segsize=1")
		cfg.Parameters["max_slot_wal_keep_size"] = "1MB"
		cfg.Parameters["wal_keep_size"] = "0"
		cfg.Parameters["min_wal_size"] = "2MB"
		cfg.Parameters["max_wal_size"] = "4MB"
	})
	slots := []pg.Slot{{Name: "x"}}
	require.NoError(t, a.EnsureSlots(a.ctx(), slots))
	state := func() string { return a.sql("SELECT wal_status FROM pg_replication_slots") }
	a.await("the slot has lost its WAL", func() bool {
		a.sql("INSERT INTO t SELECT generate_series(1, 20000)")
		require.NoError(t, a.Checkpoint(a.ctx()))
		return state() == "lost"
	})
	require.NoError(t, a.EnsureSlots(a.ctx(), slots))
	require.Equal(t, "reserved", state())
}
