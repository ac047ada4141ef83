package dcs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
)

func TestHelpers(t *testing.T) {
	t.Parallel()
	cluster := memory.New(memory.Config{})
	defer cluster.Close()
	s, ctx := cluster.Client("a"), t.Context()

	first, err := dcs.Create(ctx, s, "/k", []byte("1"), "")
	require.NoError(t, err)
	_, err = dcs.Create(ctx, s, "/k", []byte("2"), "")
	require.ErrorIs(t, err, dcs.ErrConflict)

	second, err := dcs.CompareAndSwap(ctx, s, "/k", first, []byte("2"), "")
	require.NoError(t, err)
	require.Greater(t, second, first)
	_, err = dcs.CompareAndSwap(ctx, s, "/k", first, []byte("3"), "")
	require.ErrorIs(t, err, dcs.ErrConflict)

	require.ErrorIs(t, dcs.Delete(ctx, s, "/k", first), dcs.ErrConflict)
	require.ErrorIs(t, dcs.Delete(ctx, s, "/k", 0), dcs.ErrInvalid)
	_, err = s.Commit(ctx, dcs.Txn{If: []dcs.Guard{dcs.Held("/k", first), dcs.At("/k", second), dcs.At("/none", 0)}})
	require.NoError(t, err)
	require.NoError(t, dcs.Delete(ctx, s, "/k", second))

	third, err := dcs.Put(ctx, s, "/k", []byte("3"))
	require.NoError(t, err)
	kv, err := s.Get(ctx, "/k")
	require.NoError(t, err)
	require.Equal(t, dcs.KV{Key: "/k", Value: []byte("3"), Revision: third, Created: third}, kv)
}

func TestSurelyNotDone(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		sure bool
	}{
		{dcs.ErrConflict, true},
		{dcs.ErrUnavailable, true},
		{dcs.ErrSessionLost, true},
		{dcs.ErrInvalid, true},
		{dcs.ErrClosed, true},
		{fmt.Errorf("commit: %w: %w", dcs.ErrUnavailable, context.Canceled), true},
		{dcs.ErrAmbiguous, false},
		{dcs.ErrNotFound, false},
		{context.DeadlineExceeded, false},
		{errors.New("anything else"), false},
		{nil, false},
	} {
		require.Equal(t, tc.sure, dcs.SurelyNotDone(tc.err), "%v", tc.err)
	}
}
