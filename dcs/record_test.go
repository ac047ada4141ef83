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

type setting struct {
	Mode  string `json:"mode,omitempty"`
	Limit int    `json:"limit,omitempty"`
}

func newStore(t *testing.T) dcs.Store {
	t.Helper()
	cluster := memory.New(memory.Config{})
	t.Cleanup(cluster.Close)
	return cluster.Client("a")
}

func TestRecordIsReadAndWrittenUnderItsRevision(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	record := dcs.Record[setting]{Key: "/r", Format: 2}

	seen, err := record.Read(ctx, s)
	require.NoError(t, err, "that there is none is no error")
	require.False(t, seen.Exists())
	require.Equal(t, dcs.At("/r", 0), seen.Guard())

	first, err := record.Write(ctx, s, seen, setting{Mode: "sync"})
	require.NoError(t, err)
	kv, err := s.Get(ctx, "/r")
	require.NoError(t, err)
	require.JSONEq(t, `{"format":2,"mode":"sync"}`, string(kv.Value))
	require.Equal(t, dcs.Versioned[setting]{Key: "/r", Value: setting{Mode: "sync"}, Format: 2, Revision: kv.Revision}, first)
	read, err := record.Read(ctx, s)
	require.NoError(t, err)
	require.Equal(t, first, read)

	_, err = record.Write(ctx, s, seen, setting{Mode: "late"})
	require.ErrorIs(t, err, dcs.ErrConflict, "somebody was first")
	_, err = record.Write(ctx, s, first, setting{Mode: "quorum"}, dcs.At("/lock", 7))
	require.ErrorIs(t, err, dcs.ErrConflict, "a further guard does not hold")
	second, err := record.Write(ctx, s, first, setting{}, dcs.At("/lock", 0))
	require.NoError(t, err)
	kv, err = s.Get(ctx, "/r")
	require.NoError(t, err)
	require.JSONEq(t, `{"format":2}`, string(kv.Value), "an object without members gets its format too")

	require.NoError(t, dcs.Delete(ctx, s, "/r", second.Revision))
	require.NoError(t, s.Close())
	_, err = record.Read(ctx, s)
	require.ErrorIs(t, err, dcs.ErrClosed)
}

func TestRecordOfAnotherFormat(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	record := dcs.Record[setting]{Key: "/r", Format: 2}
	for _, tc := range []struct {
		data   string
		want   setting
		format int
		fails  string // part of the error; empty: none
		newer  bool
	}{
		{``, setting{}, 0, "", false},
		{`{"mode":"sync"}`, setting{Mode: "sync"}, 0, "", false},
		{` {"mode":"sync","format":1,"more":[1]}`, setting{Mode: "sync"}, 1, "", false},
		{`{"format":2}`, setting{}, 2, "", false},
		{`{"format":3,"mode":{"is":"an object now"}}`, setting{}, 0, "format 3, this version reads up to 2; upgrade this node", true},
		{`{"format":"3"}`, setting{}, 0, "record /r", false},
		{`{"mode":`, setting{}, 0, "record /r", false},
		{`[]`, setting{}, 0, "record /r", false},
		{`{"mode":1}`, setting{}, 0, "record /r", false},
	} {
		_, err := dcs.Put(ctx, s, "/r", []byte(tc.data))
		require.NoError(t, err)
		got, err := record.Read(ctx, s)
		require.Equal(t, tc.newer, errors.Is(err, dcs.ErrNewer), tc.data)
		if tc.fails != "" {
			require.ErrorContains(t, err, tc.fails)
			require.Zero(t, got, "nothing to build on")
			continue
		}
		require.NoError(t, err, tc.data)
		require.Equal(t, tc.want, got.Value, tc.data)
		require.Equal(t, tc.format, got.Format, tc.data)
		require.True(t, got.Exists())
	}
	value, err := dcs.DecodeJSON[[]int]("/list", []byte(`[1,2]`), 1)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, value)
}

func TestRecordThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	_, err := dcs.Record[int]{Key: "/r", Format: 1}.Op(7)
	require.ErrorIs(t, err, dcs.ErrInvalid)
	_, err = dcs.Record[setting]{Key: "/r"}.Op(setting{})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "format 0")
	_, err = dcs.Record[func()]{Key: "/r", Format: 1}.Write(t.Context(), newStore(t), dcs.Versioned[func()]{}, func() {})
	require.ErrorIs(t, err, dcs.ErrInvalid)

	type own struct {
		Format int `json:"format"`
	}
	_, err = dcs.Record[own]{Key: "/r", Format: 2}.Op(own{Format: 1})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	op, err := dcs.Record[own]{Key: "/r", Format: 2}.Op(own{Format: 2})
	require.NoError(t, err)
	require.JSONEq(t, `{"format":2}`, string(op.Value))
}

// interrupted lets something happen before each commit, and can replace its
// outcome.
type interrupted struct {
	dcs.Store
	before func(try int)
	after  func(err error) error
	tries  int
}

func (s *interrupted) Commit(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
	s.tries++
	if s.before != nil {
		s.before(s.tries)
	}
	rev, err := s.Store.Commit(ctx, txn)
	if s.after != nil {
		if err := s.after(err); err != nil {
			return 0, err
		}
	}
	return rev, err
}

func TestUpdateBeginsAnewWhenSomebodyElseWasQuicker(t *testing.T) {
	t.Parallel()
	inner, ctx := newStore(t), t.Context()
	record := dcs.Record[setting]{Key: "/r", Format: 1}
	another := func() {
		_, err := record.Update(ctx, inner, func(v dcs.Versioned[setting]) (setting, error) {
			v.Value.Limit += 10
			return v.Value, nil
		})
		require.NoError(t, err)
	}
	s := &interrupted{Store: inner, before: func(try int) {
		if try < 3 {
			another()
		}
	}}
	written, err := record.Update(ctx, s, func(v dcs.Versioned[setting]) (setting, error) {
		v.Value.Limit++
		return v.Value, nil
	})
	require.NoError(t, err)
	require.Equal(t, 21, written.Value.Limit)

	enough := errors.New("enough")
	_, err = record.Update(ctx, s, func(dcs.Versioned[setting]) (setting, error) { return setting{}, enough })
	require.ErrorIs(t, err, enough)
	_, err = record.Update(ctx, s, func(v dcs.Versioned[setting]) (setting, error) { return v.Value, nil }, dcs.At("/lock", 7))
	require.ErrorIs(t, err, dcs.ErrConflict, "no other attempt can help")

	unknown := &interrupted{Store: inner, after: func(error) error { return fmt.Errorf("commit: %w", dcs.ErrAmbiguous) }}
	_, err = record.Update(ctx, unknown, func(v dcs.Versioned[setting]) (setting, error) { return v.Value, nil })
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	require.Equal(t, 1, unknown.tries, "an unknown outcome is the caller's")

	n := 0
	check := &interrupted{Store: inner, before: func(try int) {
		if try == 1 {
			another()
		}
	}, after: func(err error) error {
		if n++; n == 2 {
			return fmt.Errorf("check: %w", dcs.ErrAmbiguous)
		}
		return nil
	}}
	_, err = record.Update(ctx, check, func(v dcs.Versioned[setting]) (setting, error) { return v.Value, nil }, dcs.At("/lock", 0))
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.True(t, dcs.SurelyNotDone(err), "a check that fails has written nothing")
}

func TestSettle(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	_, err := dcs.Settle(ctx, s, "/k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	session, err := s.NewSession(ctx, 1e9)
	require.NoError(t, err)
	before, err := dcs.Create(ctx, s, "/k", []byte("1"), session.ID())
	require.NoError(t, err)

	settled, err := dcs.Settle(ctx, s, "/k")
	require.NoError(t, err)
	kv, err := s.Get(ctx, "/k")
	require.NoError(t, err)
	require.Equal(t, kv, settled)
	require.Equal(t, session.ID(), settled.Session)
	_, err = dcs.CompareAndSwap(ctx, s, "/k", before, []byte("lost"), "")
	require.ErrorIs(t, err, dcs.ErrConflict, "the lost write comes too late")

	quicker := &interrupted{Store: s, before: func(int) {
		_, err := dcs.Put(ctx, s, "/k", []byte("2"))
		require.NoError(t, err)
	}}
	_, err = dcs.Settle(ctx, quicker, "/k")
	require.ErrorIs(t, err, dcs.ErrConflict)
}

// A record is read, changed, and written under the revision that was read. A
// program that does not know its format changes nothing.
func ExampleRecord() {
	ctx := context.Background()
	cluster := memory.New(memory.Config{})
	defer cluster.Close()
	store := cluster.Client("a")

	type config struct {
		TTL string `json:"ttl"`
	}
	record := dcs.Record[config]{Key: "/service/main/config", Format: 2}
	seen, err := record.Read(ctx, store)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := record.Write(ctx, store, seen, config{TTL: "10s"}); err != nil {
		fmt.Println(err)
		return
	}
	kv, err := store.Get(ctx, record.Key)
	fmt.Println(string(kv.Value), err)

	older := dcs.Record[config]{Key: record.Key, Format: 1}
	_, err = older.Read(ctx, store)
	fmt.Println("an older program:", errors.Is(err, dcs.ErrNewer))
	// Output:
	// {"format":2,"ttl":"10s"} <nil>
	// an older program: true
}
