package pgctl_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

func TestCheckSettings(t *testing.T) {
	t.Parallel()
	require.NoError(t, pgctl.CheckSettings(pgctl.Settings{Parameters: map[string]string{"work_mem": "8MB"}, HBA: []string{"host all all all scram-sha-256"}}))
	require.ErrorContains(t, pgctl.CheckSettings(pgctl.Settings{Parameters: map[string]string{"port": "1"}}), "parameter port is managed by this software")
	require.ErrorContains(t, pgctl.CheckSettings(pgctl.Settings{HBA: []string{"a\nb"}}), "each entry is one line")
}

// TestReconfigure: a running server takes up what it can, says what it cannot, and
// keeps what it has where the new settings are refused.
func TestReconfigure(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	require.NoError(t, a.OpenGate(a.ctx()))
	shown := func(name string) string { return a.sql("SHOW " + name) }
	with := func(more map[string]string, hba ...string) pgctl.Settings {
		s := pgctl.Settings{Parameters: map[string]string{}, HBA: hba}
		maps.Copy(s.Parameters, a.cfg.Parameters)
		maps.Copy(s.Parameters, more)
		return s
	}

	require.NoError(t, a.Reconfigure(a.ctx(), with(map[string]string{"work_mem": "7MB"}, "host all all 127.0.0.1/32 reject")))
	require.Equal(t, "7MB", shown("work_mem"))
	require.Empty(t, a.status().Pending)
	rules, err := os.ReadFile(filepath.Join(a.cfg.DataDir, "pg_hba.conf"))
	require.NoError(t, err)
	require.Contains(t, string(rules), "host all all 127.0.0.1/32 reject\n")

	require.NoError(t, a.Reconfigure(a.ctx(), with(map[string]string{"work_mem": "8MB", "max_connections": "33"}, "host all all 127.0.0.1/32 reject")))
	require.Equal(t, "8MB", shown("work_mem"))
	require.Equal(t, []string{"max_connections"}, a.status().Pending)

	for name, wrong := range map[string]pgctl.Settings{
		"managed":     with(map[string]string{"listen_addresses": "*"}),
		"not a value": with(map[string]string{"work_mem": "much"}),
		"not a rule":  with(map[string]string{"work_mem": "9MB"}, "host all"),
	} {
		require.Error(t, a.Reconfigure(a.ctx(), wrong), name)
		require.Equal(t, "8MB", shown("work_mem"), name)
		rules, err := os.ReadFile(filepath.Join(a.cfg.DataDir, "pg_hba.conf"))
		require.NoError(t, err)
		require.Contains(t, string(rules), "host all all 127.0.0.1/32 reject\n", name)
	}
	require.ErrorIs(t, a.Reconfigure(a.ctx(), with(map[string]string{"work_mem": "much"})), pg.ErrParameter)

	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.NoError(t, a.Reconfigure(a.ctx(), with(map[string]string{"work_mem": "10MB", "max_connections": "33"})))
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	require.Equal(t, "10MB", shown("work_mem"))
	require.Equal(t, "33", shown("max_connections"), "the start has taken up what waited for it")
	require.Empty(t, a.status().Pending)
}
