package pgctl_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// TestStandbyKeepsWhatItsPrimaryNeeds: a value that was lowered for all servers comes
// into force on a standby once the primary has it, and does not keep the standby from
// starting before.
func TestStandbyKeepsWhatItsPrimaryNeeds(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick, func(cfg *pgctl.Config) {
		cfg.Parameters["max_connections"] = "45"
		cfg.Parameters["max_worker_processes"] = "11"
		cfg.Parameters["max_wal_senders"] = "17"
		cfg.Parameters["max_prepared_transactions"] = "3"
		cfg.Parameters["max_locks_per_transaction"] = "70"
	})
	b := newStandby(t, "b", a, quick) // has 30, and defaults
	for name, want := range map[string]string{
		"max_connections": "45", "max_worker_processes": "11", "max_wal_senders": "17",
		"max_prepared_transactions": "3", "max_locks_per_transaction": "70",
	} {
		require.Equal(t, want, b.sql("SHOW "+name))
	}
	lower := pgctl.Settings{Parameters: map[string]string{"shared_buffers": "16MB", "max_connections": "30", "autovacuum": "off"}}
	higher := pgctl.Settings{Parameters: map[string]string{"shared_buffers": "16MB", "max_connections": "60", "autovacuum": "off"}}
	restart := func(n *node, standby bool) {
		require.NoError(t, n.Stop(n.ctx(), pg.StopFast))
		if standby {
			require.NoError(t, n.StartStandby(n.ctx(), a.up("b")))
			return
		}
		require.NoError(t, n.StartPrimary(n.ctx(), warrant{}, pg.SyncSetting{}))
	}
	require.NoError(t, b.Reconfigure(b.ctx(), lower))
	restart(b, true)
	require.Equal(t, "45", b.sql("SHOW max_connections"))

	require.NoError(t, a.Reconfigure(a.ctx(), lower))
	restart(a, false)
	require.Equal(t, "30", a.sql("SHOW max_connections"))
	b.awaitStreaming(a)
	b.await("the standby has noted it", func() bool {
		restart(b, true)
		return b.sql("SHOW max_connections") == "30"
	})

	// What is raised is not held back: it goes to the standby first.
	require.NoError(t, b.Reconfigure(b.ctx(), higher))
	restart(b, true)
	require.Equal(t, "60", b.sql("SHOW max_connections"))
}
