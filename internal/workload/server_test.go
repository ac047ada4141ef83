package workload_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testbed"
	"github.com/pghad/pghad/internal/workload"
)

// patience bounds the wait for events that come within milliseconds or seconds.
const patience = 30 * time.Second

// bench is one real server with a ledger.
type bench struct {
	server *testbed.PostgresServer
	target workload.Target
	path   string
	ledger *workload.Ledger
}

func newBench(t *testing.T, parameters map[string]string) *bench {
	t.Helper()
	server := testbed.StartPostgres(t, parameters)
	b := &bench{server: server, path: filepath.Join(t.TempDir(), "ledger")}
	b.target = workload.Target{
		Nodes: []workload.Node{{Name: "a", Host: server.Host(), Port: server.Port()}},
		User:  server.Superuser, Password: server.Password,
	}
	require.NoError(t, workload.CreateTable(b.context(t), b.target))
	require.NoError(t, workload.CreateTable(b.context(t), b.target), "again is no error")
	b.ledger = openLedger(t, b.path)
	return b
}

func (b *bench) context(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func (b *bench) writers(t *testing.T) *workload.Writers {
	t.Helper()
	writers, err := workload.StartWriters(workload.WritersConfig{Target: b.target, Ledger: b.ledger})
	require.NoError(t, err)
	return writers
}

// acknowledged waits for more acknowledged writes.
func (b *bench) acknowledged(t *testing.T, more int) {
	t.Helper()
	want := b.ledger.Counts().Acknowledged + more
	require.Eventually(t, func() bool { return b.ledger.Counts().Acknowledged >= want }, patience, 5*time.Millisecond)
}

func (b *bench) check(t *testing.T) workload.Report {
	t.Helper()
	report, err := workload.Check(b.context(t), workload.CheckConfig{Ledger: b.path, Target: b.target})
	require.NoError(t, err)
	return report
}

func TestWritersThroughACrash(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	writers := b.writers(t)
	readers, err := workload.StartReaders(workload.ReadersConfig{Target: b.target, Run: b.ledger.Run()})
	require.NoError(t, err)
	pinned, err := workload.StartPinnedWriters(workload.PinnedConfig{Target: b.target, Ledger: b.ledger})
	require.NoError(t, err)
	b.acknowledged(t, 100)
	fault := b.ledger.Now()
	require.NoError(t, b.server.Kill())
	require.False(t, writers.Resumed(fault))
	require.NoError(t, b.server.Start(b.context(t)))
	require.Eventually(t, func() bool { return writers.Resumed(fault) }, patience, time.Millisecond)
	b.acknowledged(t, 100)
	require.NoError(t, writers.Stop())
	require.NoError(t, pinned.Stop())
	readers.Stop()
	looker, err := workload.NewLooker(b.target)
	require.NoError(t, err)
	defer looker.Close()
	looks := looker.Look(b.context(t))
	require.True(t, workload.Whole(looks), "a primary alone is whole: %v", looks)
	require.True(t, looks[0].Primary)
	require.EqualValues(t, 1, looks[0].Timeline)
	require.Positive(t, looks[0].LSN)

	outage := writers.Gaps().Longest(fault)
	require.Less(t, outage.From, outage.To)
	require.Positive(t, readers.Counts()[0].Read)
	require.Zero(t, b.ledger.Counts().Open, "a stopped writer has waited for its last outcome")

	report := b.check(t)
	require.Equal(t, workload.VerdictOK, report.Verdict())
	require.Equal(t, "a", report.Primary)
	require.GreaterOrEqual(t, report.Acknowledged, 200)
	require.Equal(t, b.ledger.Counts().Acknowledged, report.Acknowledged)
}

func TestCheckFindsWhatWasLost(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	writers := b.writers(t)
	b.acknowledged(t, 50)
	require.NoError(t, writers.Stop())
	lost, err := workload.Lose(b.context(t), b.target, b.path, 3)
	require.NoError(t, err)
	report := b.check(t)
	require.Equal(t, workload.VerdictLost, report.Verdict())
	require.Equal(t, lost, report.LostIDs())

	_, err = workload.Lose(b.context(t), b.target, b.path, 1_000_000)
	require.ErrorContains(t, err, "are acknowledged")
}

// A twin of the server takes writes of its own: its pinned writer's real
// acknowledgements convict it.
func TestCheckFindsASecondWriter(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	writers := b.writers(t)
	b.acknowledged(t, 50)
	twin, err := testbed.NewPostgres(testbed.PostgresConfig{Dir: testbed.Dir(t)})
	require.NoError(t, err)
	require.NoError(t, twin.CopyFrom(b.context(t), b.server.Host(), b.server.Port(), b.server.Superuser, b.server.Password))
	t.Cleanup(func() { require.NoError(t, twin.Kill()) })
	require.NoError(t, twin.Start(b.context(t)))

	node := workload.Node{Name: "twin", Host: twin.Host(), Port: twin.Port()}
	pinnedTarget := b.target
	pinnedTarget.Nodes = []workload.Node{node}
	pinned, err := workload.StartPinnedWriters(workload.PinnedConfig{Target: pinnedTarget, Ledger: b.ledger, Every: 5 * time.Millisecond})
	require.NoError(t, err)
	b.acknowledged(t, 200)
	require.NoError(t, pinned.Stop())
	require.NoError(t, writers.Stop())

	report, err := workload.Check(b.context(t), workload.CheckConfig{Ledger: b.path, Target: b.target, Primary: "a"})
	require.NoError(t, err)
	require.Equal(t, workload.VerdictTwoWriters, report.Verdict())
	for _, conflict := range report.Conflicts {
		require.Equal(t, "twin", conflict.Entry.Node, conflict.String())
	}
}

// A commit that waits for a standby that never comes is cut off by the client's
// own time limit: nothing is acknowledged, and no cancel request is sent, which
// would have acknowledged it. Terminating the session is not believed either.
func TestAHungCommitIsUnknown(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	admin := sqlSession(t, b.server)
	exec(t, admin, `ALTER SYSTEM SET synchronous_standby_names = 'nobody'`)
	exec(t, admin, `SELECT pg_reload_conf()`)
	require.Eventually(t, func() bool {
		return exec(t, admin, `SHOW synchronous_standby_names`) == "nobody"
	}, patience, time.Millisecond)

	b.target.StatementTimeout = 200 * time.Millisecond
	writers := b.writers(t)
	require.Eventually(t, func() bool { return b.ledger.Counts().Unknown >= 4 }, patience, 5*time.Millisecond)
	require.Eventually(t, func() bool {
		return exec(t, admin, `SELECT count(*) > 0 FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep') t`) == "t"
	}, patience, 5*time.Millisecond)
	require.NoError(t, writers.Stop())
	require.Zero(t, b.ledger.Counts().Acknowledged)
	log, err := os.ReadFile(b.server.LogFile())
	require.NoError(t, err)
	require.Contains(t, string(log), "due to administrator command")
	require.NotContains(t, string(log), "due to user request", "no cancel request was sent")

	exec(t, admin, `ALTER SYSTEM RESET synchronous_standby_names`)
	exec(t, admin, `SELECT pg_reload_conf()`)
	report := b.check(t)
	require.Equal(t, workload.VerdictOK, report.Verdict(), "rows of unknown outcome may be there or not")
}

// A cancel from elsewhere makes PostgreSQL acknowledge with a warning; the
// ledger does not take that for an acknowledgement.
func TestACancelledWaitIsUnknown(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	admin := sqlSession(t, b.server)
	exec(t, admin, `ALTER SYSTEM SET synchronous_standby_names = 'nobody'`)
	exec(t, admin, `SELECT pg_reload_conf()`)
	require.Eventually(t, func() bool {
		return exec(t, admin, `SHOW synchronous_standby_names`) == "nobody"
	}, patience, time.Millisecond)
	b.target.StatementTimeout = patience
	writers := b.writers(t)
	stopped := make(chan error, 1)
	require.Eventually(t, func() bool {
		exec(t, admin, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`)
		return b.ledger.Counts().Unknown >= 4
	}, patience, 5*time.Millisecond)
	go func() { stopped <- writers.Stop() }()
	require.Eventually(t, func() bool {
		exec(t, admin, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`)
		return len(stopped) > 0
	}, patience, 5*time.Millisecond)
	require.NoError(t, <-stopped)
	require.Zero(t, b.ledger.Counts().Acknowledged)
	_, entries, err := workload.ReadLedger(b.path)
	require.NoError(t, err)
	for _, entry := range entries {
		if entry.Outcome == workload.Unknown { // on a busy machine an insert may not even be sent
			require.Contains(t, entry.Reason, "warned")
		}
	}
}

func TestCheckWithoutAPrimary(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	require.NoError(t, b.server.Stop())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, primary := range []string{"", "a"} {
		_, err := workload.Check(ctx, workload.CheckConfig{Ledger: b.path, Target: b.target, Primary: primary})
		require.ErrorIs(t, err, workload.ErrNoPrimary)
	}
}

func TestWhatACallerForgot(t *testing.T) {
	t.Parallel()
	ledger := openLedger(t, filepath.Join(t.TempDir(), "ledger"))
	none := workload.Target{}
	twice := workload.Target{Nodes: []workload.Node{{Name: "a"}, {Name: "a"}}}
	_, err := workload.StartWriters(workload.WritersConfig{Target: none, Ledger: ledger})
	require.ErrorContains(t, err, "no nodes")
	_, err = workload.StartPinnedWriters(workload.PinnedConfig{Target: twice, Ledger: ledger})
	require.ErrorContains(t, err, "used twice")
	_, err = workload.StartReaders(workload.ReadersConfig{Target: workload.Target{Nodes: twice.Nodes[:1]}})
	require.ErrorContains(t, err, "need the run")
}
