package pg_test

import (
	"fmt"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func TestFaultSaysWhereWhatAndWhatToDo(t *testing.T) {
	t.Parallel()
	fault := &pg.FaultError{Kind: pg.ErrDiskFull, Path: "/data", Remedy: "make room", Err: fs.ErrInvalid}
	err := fmt.Errorf("clone: %w", fault)
	require.EqualError(t, err, "clone: /data: disk full: invalid argument: make room")
	require.ErrorIs(t, err, pg.ErrDiskFull)
	require.ErrorIs(t, err, fs.ErrInvalid)
	var found *pg.FaultError
	require.ErrorAs(t, err, &found)
	require.Equal(t, "/data", found.Path)

	fault = &pg.FaultError{Kind: pg.ErrPermission, Path: "/data", Err: &fs.PathError{Op: "open", Path: "/data", Err: fs.ErrPermission}}
	require.EqualError(t, fault, "no permission: open /data: permission denied", "no place is named twice")

	fault = &pg.FaultError{Kind: pg.ErrPassword, Address: "b:5432"}
	require.EqualError(t, fault, "b:5432: password not accepted")
	require.ErrorIs(t, fault, pg.ErrPassword)
	require.NotErrorIs(t, fault, pg.ErrRefused)
}
