package zk_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/zk"
)

// TestRenewalReopensTheSession looks at what a server sees of it.
func TestRenewalReopensTheSession(t *testing.T) {
	t.Parallel()
	f := &fakeServer{}
	s := open(t, zk.Config{Servers: []string{startFake(t, f)}})
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	require.Equal(t, dcs.SessionID("0x101"), session.ID())
	require.Equal(t, time.Minute, session.TTL())
	for range 3 {
		connections, multis := f.opened.Load(), f.multis.Load()
		require.NoError(t, session.Renew(t.Context()))
		require.EqualValues(t, 1, f.opened.Load()-connections, "the leader is asked")
		require.EqualValues(t, 1, f.multis.Load()-multis, "the ensemble is asked")
	}
	hello, _ := f.hello.Load().([]byte)
	const complete = 4 + 8 + 4 + 8 + 4 + 16 + 1
	require.Len(t, hello, complete, "servers complain of requests without the last flag")
	require.EqualValues(t, 0x101, binary.BigEndian.Uint64(hello[16:]), "the same session")
	require.Zero(t, f.closes.Load())

	require.NoError(t, s.Close())
	require.Zero(t, f.closes.Load(), "closing a store does not end its sessions")
}

// TestReplacedConnectionIsLeftOpen: a server complains of each connection that a
// client closes without a word, and says nothing when it closes the old one
// itself because the session has moved to a new one.
func TestReplacedConnectionIsLeftOpen(t *testing.T) {
	t.Parallel()
	f := &fakeServer{}
	var ended atomic.Int64
	f.ended = func() { ended.Add(1) }
	var early atomic.Bool
	f.greet = func(session int64, timeout int32) (int64, int32) {
		if session != 0 && ended.Load() > 0 {
			early.Store(true)
		}
		return 0x7, timeout
	}
	session, err := open(t, zk.Config{Servers: []string{startFake(t, f)}}).NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	require.NoError(t, session.Renew(t.Context()))
	require.False(t, early.Load())
	require.Eventually(t, func() bool { return ended.Load() == 1 }, patience, time.Millisecond, "it is not left open for ever")
}

func TestRenewalThatIsRefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		spoil func(f *fakeServer, armed *atomic.Bool)
		want  error
		says  string
	}{
		{
			"expired when reopened",
			func(f *fakeServer, armed *atomic.Bool) {
				f.greet = func(_ int64, timeout int32) (int64, int32) {
					if armed.Load() {
						return 0, 0
					}
					return 0x7, timeout
				}
			},
			dcs.ErrSessionLost, "expired",
		},
		{
			"shortened when reopened",
			func(f *fakeServer, armed *atomic.Bool) {
				f.greet = func(_ int64, timeout int32) (int64, int32) {
					if armed.Load() {
						timeout /= 2
					}
					return 0x7, timeout
				}
			},
			dcs.ErrSessionLost, "give all members the same limits",
		},
		{
			"expired when proven",
			func(f *fakeServer, armed *atomic.Bool) {
				f.answer = func(op int32, body []byte) int32 {
					if armed.Load() {
						return only(opMulti, sessionExpired)(op, body)
					}
					return only(opMulti, 0)(op, body)
				}
			},
			dcs.ErrSessionLost, "expired",
		},
		{
			"its node has been deleted",
			func(f *fakeServer, armed *atomic.Bool) {
				f.answer = func(op int32, body []byte) int32 {
					if armed.Load() {
						return only(opMulti, noNode)(op, body)
					}
					return only(opMulti, 0)(op, body)
				}
			},
			dcs.ErrSessionLost, "has been deleted",
		},
		{
			"not answered",
			func(f *fakeServer, armed *atomic.Bool) {
				f.answer = func(op int32, body []byte) int32 {
					if armed.Load() {
						return only(opMulti, hangUp)(op, body)
					}
					return only(opMulti, 0)(op, body)
				}
			},
			dcs.ErrAmbiguous, "connection closed",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var (
				f     fakeServer
				armed atomic.Bool
			)
			tc.spoil(&f, &armed)
			s := open(t, zk.Config{Servers: []string{startFake(t, &f)}})
			session, err := s.NewSession(t.Context(), time.Minute)
			require.NoError(t, err)
			require.NoError(t, session.Renew(t.Context()))

			armed.Store(true)
			err = session.Renew(t.Context())
			requireOnly(t, err, tc.want)
			require.ErrorContains(t, err, tc.says)
			if tc.want == dcs.ErrSessionLost { //nolint:errorlint // the very one
				armed.Store(false)
				requireOnly(t, session.Renew(t.Context()), dcs.ErrSessionLost)
				_, err = dcs.Create(t.Context(), s, "/k", nil, session.ID())
				requireOnly(t, err, dcs.ErrSessionLost)
			}
		})
	}
}

// TestRenewalInterruptsACallThatHangs: a session must not be lost because a
// server does not answer one of its calls.
func TestRenewalInterruptsACallThatHangs(t *testing.T) {
	t.Parallel()
	f := &fakeServer{}
	hung := make(chan struct{})
	var multis atomic.Int64
	f.answer = func(op int32, body []byte) int32 {
		if op == opMulti && multis.Add(1) == 1 {
			close(hung)
			return silence
		}
		return only(opMulti, 0)(op, body)
	}
	s := open(t, zk.Config{Servers: []string{startFake(t, f)}})
	session, err := s.NewSession(t.Context(), 2*time.Second)
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() {
		_, err := dcs.Create(t.Context(), s, "/k", nil, session.ID())
		result <- err
	}()
	<-hung
	require.NoError(t, session.Renew(t.Context()))
	requireOnly(t, <-result, dcs.ErrAmbiguous)
}

// TestSessionThatIsNotRenewedIsEnded: the client of the library alone would keep
// it alive for as long as the process lives.
func TestSessionThatIsNotRenewedIsEnded(t *testing.T) {
	t.Parallel()
	f := &fakeServer{}
	mock := clock.NewMock()
	s := open(t, zk.Config{Servers: []string{startFake(t, f)}, Clock: mock})
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	mock.Add(50 * time.Second)
	require.NoError(t, session.Renew(t.Context()))
	mock.Add(50 * time.Second)
	require.NoError(t, session.Renew(t.Context()), "each renewal counts from when it was sent")
	require.Eventually(t, func() bool {
		mock.Add(time.Second)
		return f.closes.Load() == 1
	}, patience, time.Millisecond)
	err = session.Renew(t.Context())
	requireOnly(t, err, dcs.ErrSessionLost)
	require.ErrorContains(t, err, "not renewed for 1m0s")
	require.NoError(t, session.Close(t.Context()))
}

// TestRenewalThatHangsKeepsNoSession: it is the client's pings that would.
func TestRenewalThatHangsKeepsNoSession(t *testing.T) {
	t.Parallel()
	hung := make(chan struct{})
	f := &fakeServer{answer: func(op int32, body []byte) int32 {
		if op == opMulti {
			close(hung)
			return silence
		}
		return only(opMulti, 0)(op, body)
	}}
	ended := make(chan struct{}, 9)
	f.ended = func() { ended <- struct{}{} }
	mock := clock.NewMock()
	s := open(t, zk.Config{Servers: []string{startFake(t, f)}, Clock: mock})
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	result := make(chan error, 1)
	mock.Add(time.Second)
	go func() { result <- session.Renew(t.Context()) }()
	<-hung
	<-ended // the connection before it
	require.Eventually(t, func() bool {
		mock.Add(time.Second)
		return len(ended) > 0
	}, patience, time.Millisecond)
	requireOnly(t, <-result, dcs.ErrAmbiguous)
	requireOnly(t, session.Renew(t.Context()), dcs.ErrSessionLost)
}

func TestSessionsThatCannotBe(t *testing.T) {
	t.Parallel()
	f := &fakeServer{greet: func(int64, int32) (int64, int32) { return 0x7, 40000 }}
	s := open(t, zk.Config{Servers: []string{startFake(t, f)}})
	_, err := s.NewSession(t.Context(), time.Minute)
	requireOnly(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "grants at most 40s")
	_, err = s.NewSession(t.Context(), math.MaxInt64)
	requireOnly(t, err, dcs.ErrInvalid)

	session, err := s.NewSession(t.Context(), time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, 40*time.Second, session.TTL(), "what was granted counts")

	f = &fakeServer{answer: only(opCreate, -102)}
	_, err = open(t, zk.Config{Servers: []string{startFake(t, f)}}).NewSession(t.Context(), time.Minute)
	requireOnly(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "not authenticated")
	require.Eventually(t, func() bool { return f.closes.Load() == 1 }, patience, time.Millisecond)
}

func TestWritesUnderSessions(t *testing.T) {
	t.Parallel()
	address := startFake(t, &fakeServer{})
	s, other := open(t, zk.Config{Servers: []string{address}}), open(t, zk.Config{Servers: []string{address}})
	mine, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	second, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	foreign, err := other.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)

	_, err = s.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{
		{Key: "/a", Session: mine.ID()}, {Key: "/b"}, {Key: "/c", Session: second.ID()},
	}})
	requireOnly(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "two sessions")
	_, err = s.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{
		{Key: "/a", Session: mine.ID()}, {Key: "/b"}, {Key: "/c", Session: mine.ID()},
	}})
	require.NoError(t, err)
	for _, id := range []dcs.SessionID{foreign.ID(), "0", "0x", "0x0", "0x07", "0xg", "7", "-0x1", "0x1ffffffffffffffff"} {
		_, err = dcs.Create(t.Context(), s, "/a", nil, id)
		requireOnly(t, err, dcs.ErrInvalid)
	}
}

// TestCloseProvesThatTheSessionIsGone: what a server answers to the end of a
// session the client does not tell.
func TestCloseProvesThatTheSessionIsGone(t *testing.T) {
	t.Parallel()
	var stays atomic.Bool
	stays.Store(true)
	f := &fakeServer{answer: func(op int32, body []byte) int32 {
		if op == opExists && bytes.Contains(body, []byte("/%sessions/0x")) && !stays.Load() {
			return noNode
		}
		return only(opMulti, 0)(op, body)
	}}
	s := open(t, zk.Config{Servers: []string{startFake(t, f)}})
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	err = session.Close(t.Context())
	requireOnly(t, err, dcs.ErrAmbiguous)
	require.ErrorContains(t, err, "still exists")
	require.EqualValues(t, 1, f.closes.Load())
	requireOnly(t, session.Renew(t.Context()), dcs.ErrSessionLost)

	stays.Store(false)
	require.NoError(t, session.Close(t.Context()))
	f.stop()
	require.NoError(t, session.Close(t.Context()), "nobody needs to be asked again")
}
