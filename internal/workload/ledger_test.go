package workload_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/workload"
)

func openLedger(t *testing.T, path string) *workload.Ledger {
	t.Helper()
	ledger, err := workload.OpenLedger(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ledger.Close()) })
	return ledger
}

func TestLedgerKeepsThreeOutcomes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger")
	ledger := openLedger(t, path)
	for _, outcome := range []workload.Outcome{workload.Acknowledged, workload.Unknown, workload.Failed, ""} {
		entry, err := ledger.Begin(workload.Entry{Writer: "w", Node: "a", Timeline: 3, Backend: 42, Pinned: true})
		require.NoError(t, err)
		if outcome != "" {
			require.NoError(t, ledger.End(entry, ledger.Now(), outcome, "because"))
		}
	}
	require.Equal(t, workload.Counts{Acknowledged: 1, Unknown: 1, Failed: 1, Open: 1}, ledger.Counts())

	run, entries, err := workload.ReadLedger(path)
	require.NoError(t, err)
	require.Equal(t, ledger.Run(), run)
	require.Len(t, entries, 4)
	for i, want := range []workload.Outcome{workload.Acknowledged, workload.Unknown, workload.Failed, workload.Unknown} {
		require.Equal(t, want, entries[i].Outcome)
		require.EqualValues(t, i+1, entries[i].ID)
		require.Equal(t, "a", entries[i].Node)
		require.EqualValues(t, 3, entries[i].Timeline)
		require.True(t, entries[i].Pinned)
		if i < 3 {
			require.GreaterOrEqual(t, entries[i].Done, entries[i].Sent)
		}
	}
	require.Zero(t, entries[3].Done)
	require.NotEmpty(t, entries[3].Reason)
}

// A write is in the file before Begin returns, so before it can be sent.
func TestLedgerIsWrittenBeforeTheWriteIsSent(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger")
	ledger := openLedger(t, path)
	entry, err := ledger.Begin(workload.Entry{Writer: "w", Node: "a", Timeline: 1})
	require.NoError(t, err)
	_, entries, err := workload.ReadLedger(path)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, entry.ID, entries[0].ID)
}

// Whatever a kill leaves of the last line, what was acknowledged before it is
// still known, and a new opening goes on above it.
func TestLedgerSurvivesAKillAtEveryByte(t *testing.T) {
	t.Parallel()
	whole := filepath.Join(t.TempDir(), "whole")
	ledger := openLedger(t, whole)
	for range 2 {
		entry, err := ledger.Begin(workload.Entry{Writer: "w", Node: "a", Timeline: 1})
		require.NoError(t, err)
		require.NoError(t, ledger.End(entry, ledger.Now(), workload.Acknowledged, ""))
	}
	data, err := os.ReadFile(whole)
	require.NoError(t, err)
	_, full, err := workload.ReadLedger(whole)
	require.NoError(t, err)

	path := filepath.Join(t.TempDir(), "cut")
	for cut := range data {
		require.NoError(t, os.WriteFile(path, data[:cut], 0o600))
		_, before, err := workload.ReadLedger(path)
		require.NoError(t, err, "cut at %d", cut)

		again, err := workload.OpenLedger(path)
		require.NoError(t, err, "cut at %d", cut)
		entry, err := again.Begin(workload.Entry{Writer: "w", Node: "b", Timeline: 2})
		require.NoError(t, err)
		require.NoError(t, again.End(entry, again.Now(), workload.Acknowledged, ""))
		require.NoError(t, again.Close())

		_, after, err := workload.ReadLedger(path)
		require.NoError(t, err, "cut at %d", cut)
		require.Len(t, after, len(before)+1)
		require.ElementsMatch(t, before, after[:len(before)])
		require.EqualValues(t, len(before)+1, entry.ID, "ids are never used twice")
		for i, e := range before {
			if e.Outcome == workload.Acknowledged {
				require.Equal(t, full[i], e)
			}
		}
	}
}

func TestLedgerContinuesItsTimes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger")
	first, err := workload.OpenLedger(path)
	require.NoError(t, err)
	one, err := first.Begin(workload.Entry{Node: "a"})
	require.NoError(t, err)
	require.NoError(t, first.Close())
	second := openLedger(t, path)
	require.Equal(t, first.Run(), second.Run())
	two, err := second.Begin(workload.Entry{Node: "a"})
	require.NoError(t, err)
	require.Greater(t, two.Sent, one.Sent)
	require.Equal(t, one.ID+1, two.ID)
}

func TestLedgerRefusesWhatIsNoLedger(t *testing.T) {
	t.Parallel()
	head := `{"run":"r","opened":"2026-01-02T03:04:05Z"}` + "\n"
	tests := map[string]struct{ text, err string }{
		"rubbish in the middle": {head + "rubbish\n" + `{"id":1,"node":"a"}` + "\n", "line 2 is not a line of a ledger"},
		"sent twice":            {head + `{"id":1,"node":"a"}` + "\n" + `{"id":1,"node":"a"}` + "\n", "line 3: id 1 is sent twice"},
		"outcome of nothing":    {head + `{"id":1,"outcome":"acknowledged"}` + "\n", "line 2: an outcome for id 1, which was not sent"},
		"two runs":              {head + `{"run":"s","opened":"2026-01-02T03:04:05Z"}` + "\n", "two runs"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "ledger")
			require.NoError(t, os.WriteFile(path, []byte(test.text), 0o600))
			_, _, err := workload.ReadLedger(path)
			require.ErrorContains(t, err, test.err)
			_, err = workload.OpenLedger(path)
			require.ErrorContains(t, err, test.err)
		})
	}
}

func TestLedgerIsSharedByWriters(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger")
	ledger := openLedger(t, path)
	var writers sync.WaitGroup
	errs := make(chan error, 8*50*2)
	for i := range 8 {
		writers.Go(func() {
			for range 50 {
				entry, err := ledger.Begin(workload.Entry{Writer: fmt.Sprint(i), Node: "a"})
				errs <- err
				errs <- ledger.End(entry, ledger.Now(), workload.Acknowledged, "")
			}
		})
	}
	writers.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	_, entries, err := workload.ReadLedger(path)
	require.NoError(t, err)
	require.Len(t, entries, 400)
	for i, entry := range entries {
		require.EqualValues(t, i+1, entry.ID)
		require.Equal(t, workload.Acknowledged, entry.Outcome)
	}
}
