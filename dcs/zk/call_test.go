package zk_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	client "github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/zk"
)

func open(t *testing.T, cfg zk.Config) *zk.Store {
	t.Helper()
	s, err := zk.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// requireOnly requires that err wraps this error of package dcs and no other.
func requireOnly(t *testing.T, err, want error) {
	t.Helper()
	for _, sentinel := range []error{
		dcs.ErrNotFound, dcs.ErrConflict, dcs.ErrSessionLost, dcs.ErrUnavailable, dcs.ErrAmbiguous, dcs.ErrInvalid, dcs.ErrClosed,
	} {
		if errors.Is(want, sentinel) {
			require.ErrorIs(t, err, sentinel)
		} else {
			require.NotErrorIs(t, err, sentinel)
		}
	}
}

// clientErrors is every error that the client can return, with what it proves
// about a write.
func clientErrors() []struct{ said, proof error } {
	return []struct{ said, proof error }{
		{client.ErrNoNode, dcs.ErrConflict},
		{client.ErrNodeExists, dcs.ErrConflict},
		{client.ErrBadVersion, dcs.ErrConflict},
		{client.ErrNotEmpty, dcs.ErrUnavailable},
		{client.ErrNoChildrenForEphemerals, dcs.ErrUnavailable},
		{client.ErrSessionExpired, dcs.ErrSessionLost},
		{client.ErrSessionMoved, dcs.ErrUnavailable},
		{client.ErrNoAuth, dcs.ErrUnavailable},
		{client.ErrAuthFailed, dcs.ErrUnavailable},
		{client.ErrInvalidACL, dcs.ErrInvalid},
		{client.ErrInvalidPath, dcs.ErrInvalid},
		{client.ErrInvalidFlags, dcs.ErrInvalid},
		{client.ErrBadArguments, dcs.ErrInvalid},
		{client.ErrNoServer, dcs.ErrUnavailable},
		{fmt.Errorf("creating: %w", client.ErrInvalidFlags), dcs.ErrInvalid},
		// They prove nothing.
		{client.ErrConnectionClosed, dcs.ErrAmbiguous},
		{client.ErrClosing, dcs.ErrAmbiguous},
		{client.ErrUnknown, dcs.ErrAmbiguous},
		{client.ErrAPIError, dcs.ErrAmbiguous},
		{client.ErrNothing, dcs.ErrAmbiguous},
		{client.ErrReconfigDisabled, dcs.ErrAmbiguous},
		{client.ErrShortBuffer, dcs.ErrAmbiguous},
		{client.ErrUnhandledFieldType, dcs.ErrAmbiguous},
		{client.ErrPtrExpected, dcs.ErrAmbiguous},
		{client.ErrDeadlock, dcs.ErrAmbiguous},
		{client.ErrNotLocked, dcs.ErrAmbiguous},
		{&net.OpError{Op: "write", Err: errors.New("broken pipe")}, dcs.ErrAmbiguous},
		{io.EOF, dcs.ErrAmbiguous},
		{context.DeadlineExceeded, dcs.ErrAmbiguous},
		{errors.New("unknown error: -7"), dcs.ErrAmbiguous},
		{errors.New("anything else"), dcs.ErrAmbiguous},
	}
}

func TestVerdictOnEveryErrorOfTheClient(t *testing.T) {
	t.Parallel()
	for _, tc := range clientErrors() {
		require.Equal(t, tc.proof, zk.Verdict(tc.said), "%v", tc.said)
	}
}

// TestEveryErrorOfTheClientIsRuled looks up, in the client's source, what it can
// say: a new error of a later version has to be thought about.
func TestEveryErrorOfTheClientIsRuled(t *testing.T) {
	t.Parallel()
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/go-zookeeper/zk").Output()
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*.go"))
	require.NoError(t, err)
	tested := map[string]bool{}
	for _, tc := range clientErrors() {
		tested[tc.said.Error()] = true
	}
	declared := regexp.MustCompile(`(?m)^\s*(?:var )?(Err\w+)\s*= errors\.New\("([^"]+)"\)`)
	found := 0
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range declared.FindAllStringSubmatch(string(source), -1) {
			found++
			require.True(t, tested[match[2]], "the verdict on %s is not tested", match[1])
		}
	}
	require.Greater(t, found, 20)
}

// TestVerdictOnEveryAnswer holds every code that a server can answer with
// against what it proves about a write and what a read makes of it.
func TestVerdictOnEveryAnswer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		code  int32
		write error
	}{
		{"not empty", -111, dcs.ErrUnavailable},
		{"no children for ephemerals", -108, dcs.ErrUnavailable},
		{"session expired", sessionExpired, dcs.ErrUnavailable}, // that of the connection, which is nobody's
		{"session moved", -118, dcs.ErrUnavailable},
		{"no auth", -102, dcs.ErrUnavailable},
		{"auth failed", -115, dcs.ErrUnavailable},
		{"not read-only", -119, dcs.ErrUnavailable},
		{"ephemeral on local session", -120, dcs.ErrUnavailable},
		{"session closed, sasl required", -124, dcs.ErrUnavailable},
		{"quota exceeded", -125, dcs.ErrUnavailable},
		{"throttled", -127, dcs.ErrUnavailable},
		{"invalid acl", -114, dcs.ErrInvalid},
		{"bad arguments", -8, dcs.ErrInvalid},
		// They prove nothing.
		{"system error", -1, dcs.ErrAmbiguous},
		{"runtime inconsistency", -2, dcs.ErrAmbiguous},
		{"data inconsistency", -3, dcs.ErrAmbiguous},
		{"connection loss", -4, dcs.ErrAmbiguous},
		{"marshalling error", -5, dcs.ErrAmbiguous},
		{"unimplemented", -6, dcs.ErrAmbiguous},
		{"operation timeout", -7, dcs.ErrAmbiguous},
		{"invalid state", -9, dcs.ErrAmbiguous},
		{"quorum lost", -13, dcs.ErrAmbiguous},
		{"api error", -100, dcs.ErrAmbiguous},
		{"invalid callback", -113, dcs.ErrAmbiguous},
		{"closing", -116, dcs.ErrAmbiguous},
		{"nothing", -117, dcs.ErrAmbiguous},
		{"request timeout", -122, dcs.ErrAmbiguous},
		{"reconfig disabled", -123, dcs.ErrAmbiguous},
		{"of a later version", -199, dcs.ErrAmbiguous},
		{"none, the connection is closed", hangUp, dcs.ErrAmbiguous},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeServer{answer: only(opMulti, tc.code)}
			s := open(t, zk.Config{Servers: []string{startFake(t, f)}})

			_, err := dcs.Put(t.Context(), s, "/a/k", nil)
			requireOnly(t, err, tc.write)
			require.EqualValues(t, 1, f.multis.Load(), "a write is sent once")
			require.Equal(t, !errors.Is(tc.write, dcs.ErrAmbiguous), dcs.SurelyNotDone(err))

			read := dcs.ErrUnavailable
			if errors.Is(tc.write, dcs.ErrInvalid) {
				read = dcs.ErrInvalid
			}
			_, err = s.Get(t.Context(), "/a/k")
			requireOnly(t, err, read)
			require.EqualValues(t, 2, f.multis.Load(), "a read is sent once")
		})
	}
}

// TestLookThatFailsWritesNothing has the connection fail before the transaction
// is sent.
func TestLookThatFailsWritesNothing(t *testing.T) {
	t.Parallel()
	for _, code := range []int32{hangUp, -7, -102} {
		f := &fakeServer{answer: only(opExists, code)}
		s := open(t, zk.Config{Servers: []string{startFake(t, f)}})
		_, err := dcs.Put(t.Context(), s, "/a/k", nil)
		requireOnly(t, err, dcs.ErrUnavailable)
		require.Zero(t, f.multis.Load())
	}
}

// TestTransactionGivesWay has every attempt come too late.
func TestTransactionGivesWay(t *testing.T) {
	t.Parallel()
	f := &fakeServer{answer: only(opMulti, noNode)}
	s := open(t, zk.Config{Servers: []string{startFake(t, f)}})
	_, err := dcs.Put(t.Context(), s, "/a/k", nil)
	requireOnly(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "others came first")
	require.EqualValues(t, zk.MaxAttempts, f.multis.Load())

	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int64
	f = &fakeServer{answer: func(op int32, body []byte) int32 {
		if op == opMulti && asked.Add(1) == 3 {
			cancel()
		}
		return only(opMulti, noNode)(op, body)
	}}
	s = open(t, zk.Config{Servers: []string{startFake(t, f)}})
	_, err = dcs.Put(ctx, s, "/a/k", nil)
	require.ErrorIs(t, err, context.Canceled)
	require.LessOrEqual(t, f.multis.Load(), int64(3), "nothing is sent for a caller who has gone")
}

// TestOutcomeOfAnInterruptedCall interrupts calls that the server has received.
func TestOutcomeOfAnInterruptedCall(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name      string
		interrupt func(cancel context.CancelFunc, f *fakeServer, s *zk.Store)
		write     error
		read      error
	}{
		{
			"context ends",
			func(cancel context.CancelFunc, _ *fakeServer, _ *zk.Store) { cancel() },
			dcs.ErrAmbiguous, context.Canceled,
		},
		{
			"connection breaks",
			func(_ context.CancelFunc, f *fakeServer, _ *zk.Store) { f.stop() },
			dcs.ErrAmbiguous, dcs.ErrUnavailable,
		},
		{
			"store is closed",
			func(_ context.CancelFunc, _ *fakeServer, s *zk.Store) { _ = s.Close() },
			dcs.ErrAmbiguous, dcs.ErrClosed,
		},
	} {
		for _, write := range []bool{true, false} {
			name := tc.name + " during a read"
			if write {
				name = tc.name + " during a write"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				received := make(chan struct{})
				f := &fakeServer{}
				f.answer = func(op int32, body []byte) int32 {
					if op == opMulti {
						close(received)
						return silence
					}
					return only(opMulti, 0)(op, body)
				}
				s := open(t, zk.Config{Servers: []string{startFake(t, f)}})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				result := make(chan error, 1)
				go func() {
					if write {
						_, err := dcs.Put(ctx, s, "/k", nil)
						result <- err
						return
					}
					_, err := s.Get(ctx, "/k")
					result <- err
				}()
				<-received
				tc.interrupt(cancel, f, s)
				err := <-result
				switch {
				case write:
					requireOnly(t, err, tc.write)
				case errors.Is(tc.read, context.Canceled):
					requireOnly(t, err, nil)
					require.ErrorIs(t, err, context.Canceled)
				default:
					requireOnly(t, err, tc.read)
				}
			})
		}
	}
}

// TestUnreachableServerIsToldByTheContext calls servers that never take a
// request: what was not handed to the client is surely not done.
func TestUnreachableServerIsToldByTheContext(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never says a word
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, silent.Close()) })
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, refusing.Close())

	for name, address := range map[string]string{
		"silent": silent.Addr().String(), "refusing": refusing.Addr().String(), "unknown": "no-such-host.invalid:1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, zk.Config{Servers: []string{address}, Lookup: func(context.Context, string) ([]string, error) {
				return nil, errors.New("no such host")
			}})
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := dcs.Put(ctx, s, "/k", nil)
			requireOnly(t, err, dcs.ErrUnavailable)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "no connection to ZooKeeper so far")
			_, err = s.NewSession(ctx, time.Second)
			requireOnly(t, err, dcs.ErrUnavailable)

			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err = s.Get(ctx, "/k")
			requireOnly(t, err, nil)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			_, err = s.NewSession(ctx, time.Second)
			requireOnly(t, err, dcs.ErrUnavailable)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
	}
}

// TestCloseEndsAWaitForAConnection closes a store whose calls wait in vain.
func TestCloseEndsAWaitForAConnection(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()
	s := open(t, zk.Config{Servers: []string{silent.Addr().String()}})
	result := make(chan error, 2)
	go func() {
		_, err := dcs.Put(t.Context(), s, "/k", nil)
		result <- err
	}()
	go func() {
		_, err := s.NewSession(t.Context(), time.Minute)
		result <- err
	}()
	for range 2 { // both are under way
		conn, err := silent.Accept()
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close()) }()
	}
	require.NoError(t, s.Close())
	requireOnly(t, <-result, dcs.ErrClosed)
	requireOnly(t, <-result, dcs.ErrClosed)
}

// TestCredentialsComeFirst: a request that overtakes them is refused, or worse,
// creates a node that everybody may change.
func TestCredentialsComeFirst(t *testing.T) {
	t.Parallel()
	f := &fakeServer{}
	s := open(t, zk.Config{Servers: []string{startFake(t, f)}, Username: "u", Password: "p"})
	_, err := dcs.Put(t.Context(), s, "/k", nil)
	require.NoError(t, err)
	require.EqualValues(t, opAuth, f.ops()[0])
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	before := len(f.ops())
	require.NoError(t, session.Renew(t.Context()))
	require.Equal(t, []int32{opAuth, opMulti}, f.ops()[before:], "on the new connection too")
}

func TestOpenRefusesAWrongConfig(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		cfg  zk.Config
		says string
	}{
		{zk.Config{}, "at least one server"},
		{zk.Config{Servers: []string{""}}, "not host:port"},
		{zk.Config{Servers: []string{"a:0"}}, "not host:port"},
		{zk.Config{Servers: []string{"a:b"}}, "not host:port"},
		{zk.Config{Servers: []string{"a:1:2"}}, "not host:port"},
		{zk.Config{Servers: []string{"a"}, Chroot: "pghad"}, "does not start with a slash"},
		{zk.Config{Servers: []string{"a"}, Chroot: "/pghad/"}, "ends with a slash"},
		{zk.Config{Servers: []string{"a"}, Chroot: "/zookeeper/x"}, "ZooKeeper's own"},
		{zk.Config{Servers: []string{"a"}, Chroot: "/😀"}, "cannot have in a path"},
		{zk.Config{Servers: []string{"a"}, Username: "u"}, "both or not at all"},
		{zk.Config{Servers: []string{"a"}, Username: "u:v", Password: "p"}, "has a colon"},
		{zk.Config{Servers: []string{"a"}, DialTimeout: -1}, "negative"},
	} {
		_, err := zk.Open(t.Context(), tc.cfg)
		require.ErrorIs(t, err, dcs.ErrInvalid)
		require.ErrorContains(t, err, tc.says)
	}
	for _, server := range []string{"a", "a:1", "::1", "[::1]", "[::1]:2", "127.0.0.1"} {
		s, err := zk.Open(t.Context(), zk.Config{Servers: []string{server}, Chroot: "/", TLS: &tls.Config{MinVersion: tls.VersionTLS12}})
		require.NoError(t, err, server)
		require.NoError(t, s.Close())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := zk.Open(ctx, zk.Config{Servers: []string{"a"}})
	require.ErrorIs(t, err, context.Canceled)
}
