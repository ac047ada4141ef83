package ha_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/pg"
)

func TestFileDiskKeepsState(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	disk, err := ha.FileDisk(dir)
	require.NoError(t, err)
	state, err := disk.Load()
	require.NoError(t, err)
	require.Zero(t, state)

	want := ha.LocalState{
		SystemID: "77", Incarnation: "1f3c", Pledge: 8, PledgeNonce: "n", SeenQuorum: 12,
		Published: pg.Position{Timeline: 3, LSN: 0x5000148}, Floor: pg.Position{Timeline: 4, LSN: 1},
	}
	require.NoError(t, disk.Save(want))
	again, err := ha.FileDisk(dir)
	require.NoError(t, err)
	got, err := again.Load()
	require.NoError(t, err)
	want.Format = got.Format
	require.Equal(t, want, got)

	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file is left")
}

func TestFileDiskRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"cut off":      `{"format": 1, "pledge`,
		"newer format": `{"format": 99, "pledge": 8}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "state.json"), []byte(content), 0o600))
			disk, err := ha.FileDisk(dir)
			require.NoError(t, err)
			_, err = ha.OpenMemory(disk)
			require.ErrorContains(t, err, "state.json")
		})
	}
}

func TestMemoryIsDurableBeforeItChanges(t *testing.T) {
	t.Parallel()
	disk := &failingDisk{}
	memory, err := ha.OpenMemory(disk)
	require.NoError(t, err)
	require.NoError(t, memory.Update(func(s *ha.LocalState) { s.Pledge = 8 }))
	require.Equal(t, uint64(8), disk.saved.Pledge)

	disk.err = errors.New("disk full")
	require.ErrorIs(t, memory.Update(func(s *ha.LocalState) { s.Pledge = 9 }), disk.err)
	require.Equal(t, uint64(8), memory.State().Pledge, "a pledge that is not durable was not given")

	disk.err = nil
	require.Error(t, memory.Update(func(s *ha.LocalState) { s.Pledge = 7 }), "a pledge is never lowered")
	require.Equal(t, uint64(8), disk.saved.Pledge)
}

type failingDisk struct {
	saved ha.LocalState
	err   error
}

func (d *failingDisk) Load() (ha.LocalState, error) { return d.saved, nil }

func (d *failingDisk) Save(state ha.LocalState) error {
	if d.err == nil {
		d.saved = state
	}
	return d.err
}
