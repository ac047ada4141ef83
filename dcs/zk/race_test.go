package zk_test

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/zk"
)

// holdup passes connections on to a server, and holds the next transaction back
// on demand.
type holdup struct {
	armed   atomic.Bool
	held    chan struct{} // a transaction is held back
	release chan struct{} // it may go
}

func startHoldup(t *testing.T, server string) (*holdup, string) {
	t.Helper()
	h := &holdup{held: make(chan struct{}), release: make(chan struct{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, client, up)
			mu.Unlock()
			wg.Go(func() {
				_, _ = io.Copy(client, up)
				_ = client.Close()
			})
			wg.Go(func() {
				h.pass(client, up)
				_ = up.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, conn := range conns {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return h, l.Addr().String()
}

func (h *holdup) pass(client, up net.Conn) {
	for greeted := false; ; greeted = true {
		request, err := frame(client)
		if err != nil {
			return
		}
		if greeted && int32(binary.BigEndian.Uint32(request[4:])) == opMulti && h.armed.CompareAndSwap(true, false) {
			h.held <- struct{}{}
			<-h.release
		}
		if _, err := up.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)); err != nil {
			return
		}
	}
}

// TestWhatHappensBetweenLookAndTransaction changes keys after a transaction has
// looked at them and before it is carried out, in ways that ZooKeeper's versions
// alone do not show.
func TestWhatHappensBetweenLookAndTransaction(t *testing.T) { //nolint:tparallel // the cases are about one key
	t.Parallel()
	cfg := onCommon(t)
	other := open(t, cfg)
	session, err := other.NewSession(t.Context(), time.Hour)
	require.NoError(t, err)
	const (
		k      = "/a/b/k"
		record = "/a/b/record"
	)
	write := []dcs.Op{{Key: record, Value: []byte("landed")}}
	again := func(t *testing.T) {
		t.Helper()
		remove(t, other, k)
		create(t, other, k, "")
	}
	for _, tc := range []struct {
		name   string
		before bool // k exists
		txn    func(rev dcs.Revision) dcs.Txn
		race   func(t *testing.T)
		want   error
		after  func(t *testing.T)
	}{
		{
			"the lock is another incarnation", true,
			func(rev dcs.Revision) dcs.Txn { return dcs.Txn{If: []dcs.Guard{dcs.Held(k, rev)}, Then: write} },
			again, dcs.ErrConflict, nil,
		},
		{
			"the key is another incarnation of the same version", true,
			func(rev dcs.Revision) dcs.Txn { return dcs.Txn{If: []dcs.Guard{dcs.At(k, rev)}, Then: write} },
			again, dcs.ErrConflict, nil,
		},
		{
			"the key is gone", true,
			func(rev dcs.Revision) dcs.Txn { return dcs.Txn{If: []dcs.Guard{dcs.Held(k, rev)}, Then: write} },
			func(t *testing.T) { t.Helper(); remove(t, other, k) }, dcs.ErrConflict, nil,
		},
		{
			"the key has been written", true,
			func(rev dcs.Revision) dcs.Txn { return dcs.Txn{If: []dcs.Guard{dcs.At(k, rev)}, Then: write} },
			func(t *testing.T) { t.Helper(); put(t, other, k) }, dcs.ErrConflict, nil,
		},
		{
			"the holder has written to its lock", true,
			func(rev dcs.Revision) dcs.Txn { return dcs.Txn{If: []dcs.Guard{dcs.Held(k, rev)}, Then: write} },
			func(t *testing.T) { t.Helper(); put(t, other, k) }, nil, nil,
		},
		{
			"the key is not absent any more", false,
			func(dcs.Revision) dcs.Txn { return dcs.Txn{If: []dcs.Guard{dcs.At(k, 0)}, Then: write} },
			func(t *testing.T) { t.Helper(); create(t, other, k, "") }, dcs.ErrConflict, nil,
		},
		{
			"the key is created by another", false,
			func(dcs.Revision) dcs.Txn {
				return dcs.Txn{If: []dcs.Guard{dcs.At(k, 0)}, Then: []dcs.Op{{Key: k}, write[0]}}
			},
			func(t *testing.T) { t.Helper(); create(t, other, k, "") }, dcs.ErrConflict, nil,
		},
		{
			"a guard that did not hold does", true,
			func(dcs.Revision) dcs.Txn { return dcs.Txn{If: []dcs.Guard{dcs.At(k, 0)}, Then: write} },
			func(t *testing.T) { t.Helper(); remove(t, other, k) }, nil, nil,
		},
		{
			"what is to be deleted is created", false,
			func(dcs.Revision) dcs.Txn { return dcs.Txn{Then: []dcs.Op{{Key: k, Delete: true}, write[0]}} },
			func(t *testing.T) { t.Helper(); create(t, other, k, "") }, nil,
			func(t *testing.T) {
				t.Helper()
				_, err := other.Get(t.Context(), k)
				require.ErrorIs(t, err, dcs.ErrNotFound)
			},
		},
		{
			"what is to be deleted is deleted", true,
			func(dcs.Revision) dcs.Txn { return dcs.Txn{Then: []dcs.Op{{Key: k, Delete: true}, write[0]}} },
			func(t *testing.T) { t.Helper(); remove(t, other, k) }, nil, nil,
		},
		{
			"what is written is bound to a session", true,
			func(dcs.Revision) dcs.Txn { return dcs.Txn{Then: []dcs.Op{{Key: k}, write[0]}} },
			func(t *testing.T) { t.Helper(); remove(t, other, k); create(t, other, k, session.ID()) }, nil,
			func(t *testing.T) {
				t.Helper()
				kv, err := other.Get(t.Context(), k)
				require.NoError(t, err)
				require.Empty(t, kv.Session, "it would vanish with the session of another")
			},
		},
		{
			"what is written is deleted", true,
			func(dcs.Revision) dcs.Txn { return dcs.Txn{Then: []dcs.Op{{Key: k}, write[0]}} },
			func(t *testing.T) { t.Helper(); remove(t, other, k) }, nil,
			func(t *testing.T) {
				t.Helper()
				_, err := other.Get(t.Context(), k)
				require.NoError(t, err)
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, address := startHoldup(t, cfg.Servers[0])
			s := open(t, zk.Config{Servers: []string{address}, Chroot: cfg.Chroot})
			for _, key := range []string{k, record} {
				_, err := other.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: key, Delete: true}}})
				require.NoError(t, err)
			}
			var rev dcs.Revision
			if tc.before {
				rev = create(t, other, k, "")
			}
			type outcome struct {
				rev dcs.Revision
				err error
			}
			result := make(chan outcome, 1)
			h.armed.Store(true)
			go func() {
				rev, err := s.Commit(t.Context(), tc.txn(rev))
				result <- outcome{rev, err}
			}()
			<-h.held
			tc.race(t)
			h.release <- struct{}{}
			got := <-result
			kv, err := other.Get(t.Context(), record)
			if tc.want != nil {
				requireOnly(t, got.err, tc.want)
				require.ErrorIs(t, err, dcs.ErrNotFound)
				return
			}
			require.NoError(t, got.err)
			require.NoError(t, err)
			require.Equal(t, got.rev, kv.Revision)
			if tc.after != nil {
				tc.after(t)
			}
		})
	}
}

func create(t *testing.T, s dcs.Store, key string, session dcs.SessionID) dcs.Revision {
	t.Helper()
	rev, err := dcs.Create(t.Context(), s, key, nil, session)
	require.NoError(t, err)
	return rev
}

func put(t *testing.T, s dcs.Store, key string) {
	t.Helper()
	_, err := dcs.Put(t.Context(), s, key, nil)
	require.NoError(t, err)
}

func remove(t *testing.T, s dcs.Store, key string) {
	t.Helper()
	kv, err := s.Get(t.Context(), key)
	require.NoError(t, err)
	require.NoError(t, dcs.Delete(t.Context(), s, key, kv.Revision))
}
