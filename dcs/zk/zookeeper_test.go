package zk_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	client "github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/internal/testbed"
)

// patience bounds waits for events that do come.
const patience = 60 * time.Second

func await(t *testing.T, updates <-chan dcs.Update, want func(dcs.Update) bool) dcs.Update {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		select {
		case u, open := <-updates:
			require.True(t, open)
			if want(u) {
				return u
			}
		case <-ctx.Done():
			require.NoError(t, ctx.Err(), "waiting for a watch")
		}
	}
}

// within makes a context for one request.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

type noLog struct{}

func (noLog) Printf(string, ...any) {}

// admin is the library's own client, for what an operator does.
func admin(t *testing.T, address string) *client.Conn {
	t.Helper()
	conn, events, err := client.Connect([]string{address}, 30*time.Second, client.WithLogger(noLog{}))
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	for event := range events {
		if event.State == client.StateHasSession {
			break
		}
	}
	return conn
}

func TestServerRestartsUnderAStore(t *testing.T) {
	t.Parallel()
	server := testbed.StartZooKeeper(t)
	s := open(t, zk.Config{Servers: []string{server.Address()}})
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	rev, err := dcs.Create(t.Context(), s, "/k", []byte("1"), session.ID())
	require.NoError(t, err)
	updates := s.Watch(t.Context(), "/")
	require.Len(t, (<-updates).KVs, 1)

	require.NoError(t, server.Kill())
	u := await(t, updates, func(u dcs.Update) bool { return u.Err != nil })
	requireOnly(t, u.Err, dcs.ErrUnavailable)
	_, err = dcs.Put(within(t, 100*time.Millisecond), s, "/k", []byte("2"))
	require.Error(t, err)
	requireOnly(t, session.Renew(within(t, 100*time.Millisecond)), dcs.ErrUnavailable)
	requireOnly(t, session.Close(within(t, 100*time.Millisecond)), dcs.ErrUnavailable)

	require.NoError(t, server.Start(t.Context()))
	u = await(t, updates, func(u dcs.Update) bool { return u.Err == nil })
	require.Len(t, u.KVs, 1)
	require.NoError(t, session.Renew(within(t, patience)), "the session has survived")
	kv, err := s.Get(within(t, patience), "/k")
	require.NoError(t, err)
	require.Equal(t, rev, kv.Created)
	require.Equal(t, session.ID(), kv.Session)

	last, err := dcs.Put(t.Context(), s, "/k", []byte("3"))
	require.NoError(t, err)
	await(t, updates, func(u dcs.Update) bool { return len(u.KVs) == 1 && u.KVs[0].Revision == last })
}

func TestFrozenServerHangsNobody(t *testing.T) {
	t.Parallel()
	server := testbed.StartZooKeeper(t)
	s := open(t, zk.Config{Servers: []string{server.Address()}})
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	rev, err := dcs.Put(t.Context(), s, "/k", []byte("1"))
	require.NoError(t, err)

	require.NoError(t, server.Pause())
	_, err = dcs.CompareAndSwap(within(t, 100*time.Millisecond), s, "/k", rev, []byte("2"), "")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Error(t, session.Renew(within(t, 100*time.Millisecond)))
	_, err = s.Get(within(t, 100*time.Millisecond), "/k")
	requireOnly(t, err, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	require.NoError(t, server.Resume())
	require.NoError(t, session.Renew(within(t, patience)))
	kv, err := s.Get(within(t, patience), "/k")
	require.NoError(t, err)
	require.Equal(t, rev, kv.Revision, "the write did not get beyond looking")
}

// TestChroots shows that stores with different roots do not see each other, and
// that names which ZooKeeper cannot have, or has itself, make no difference.
func TestChroots(t *testing.T) {
	t.Parallel()
	server := testbed.StartZooKeeper(t)
	keys := []string{
		"/k", "/zookeeper", "/zookeeper/quota", "/zookeeper/a/b", "/a b/c", "/a:b/%41/c:d", "/x/y/:", "/x/y/:/:", "/x/y/z", "/x/y",
		"/x/😀", "/x/y/\ufffd", "/x/%sessions/0x1",
	}
	slices.Sort(keys)
	// The root of all sees what is in the others, so it comes first.
	for _, root := range []string{"", "/pghad", "/other/deep"} {
		s := open(t, zk.Config{Servers: []string{server.Address()}, Chroot: root})
		session, err := s.NewSession(t.Context(), time.Minute)
		require.NoError(t, err)
		for i, key := range keys {
			id := dcs.SessionID("")
			if i%2 == 0 {
				id = session.ID()
			}
			_, err := dcs.Create(t.Context(), s, key, []byte(root), id)
			require.NoError(t, err, key)
		}
		kvs, err := s.List(t.Context(), "/")
		require.NoError(t, err)
		require.Len(t, kvs, len(keys))
		for i, kv := range kvs {
			require.Equal(t, keys[i], kv.Key)
			require.Equal(t, root, string(kv.Value))
			got, err := s.Get(t.Context(), kv.Key)
			require.NoError(t, err)
			require.Equal(t, kv, got)
		}
		for _, prefix := range []string{"/x", "/x/", "/x/y", "/x/y/", "/x/y/:", "/x/y/:/", "/a", "/zoo", "/none", "/x/none/", "/k/"} {
			kvs, err := s.List(t.Context(), prefix)
			require.NoError(t, err)
			var want, got []string
			for _, key := range keys {
				if strings.HasPrefix(key, prefix) {
					want = append(want, key)
				}
			}
			for _, kv := range kvs {
				got = append(got, kv.Key)
			}
			require.Equal(t, want, got, "prefix %s", prefix)
			require.Len(t, (<-s.Watch(t.Context(), prefix)).KVs, len(want))
		}
	}
	nodes, _, err := admin(t, server.Address()).Children("/pghad/x/y")
	require.NoError(t, err)
	slices.Sort(nodes)
	require.Equal(t, []string{":%3A", ":%3A:%3A", ":%EF%BF%BD", ":z"}, nodes)
}

// TestGuardsSeeThroughVersions writes a key so often that its node has the same
// data version in two incarnations, which is all that ZooKeeper can check.
func TestGuardsSeeThroughVersions(t *testing.T) {
	t.Parallel()
	cfg := onCommon(t)
	s, conn := open(t, cfg), admin(t, cfg.Servers[0])
	write := func() (token, last dcs.Revision) {
		token, err := dcs.Create(t.Context(), s, "/a/b/k", nil, "")
		require.NoError(t, err)
		last, err = dcs.Put(t.Context(), s, "/a/b/k", nil)
		require.NoError(t, err)
		return token, last
	}
	token, last := write()
	_, before, err := conn.Exists(cfg.Chroot + "/a/b/:k")
	require.NoError(t, err)
	_, folder, err := conn.Exists(cfg.Chroot + "/a/b")
	require.NoError(t, err)
	require.NoError(t, dcs.Delete(t.Context(), s, "/a/b/k", last))
	next, _ := write()
	_, after, err := conn.Exists(cfg.Chroot + "/a/b/:k")
	require.NoError(t, err)
	require.Equal(t, before.Version, after.Version)
	require.Greater(t, next, token)

	for _, g := range []dcs.Guard{dcs.At("/a/b/k", last), dcs.Held("/a/b/k", token)} {
		_, err := s.Commit(t.Context(), dcs.Txn{If: []dcs.Guard{g}, Then: []dcs.Op{{Key: "/a/b/other"}}})
		requireOnly(t, err, dcs.ErrConflict)
	}
	_, now, err := conn.Exists(cfg.Chroot + "/a/b")
	require.NoError(t, err)
	require.Equal(t, folder.Version+1, now.Version, "creations are counted, in the folder")
	require.Equal(t, after.Czxid, now.Mzxid, "in the same transaction")
}

// TestGuardsAndCreationsInOneFolder: creations of other keys in a folder disturb
// what is known of a key, which must not make a guard fail that holds.
func TestGuardsAndCreationsInOneFolder(t *testing.T) {
	t.Parallel()
	cfg := onCommon(t)
	holder := open(t, cfg)
	token, err := dcs.Create(t.Context(), holder, "/a/b/lock", nil, "")
	require.NoError(t, err)
	const writers, each = 3, 30
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		s := open(t, cfg)
		wg.Go(func() {
			for n := 0; n < each && errs[i] == nil; n++ {
				_, errs[i] = dcs.Create(t.Context(), s, fmt.Sprintf("/a/b/%d/%d", i, n), nil, "")
			}
		})
	}
	for n := range each {
		_, err := holder.Commit(t.Context(), dcs.Txn{
			If:   []dcs.Guard{dcs.Held("/a/b/lock", token), dcs.At(fmt.Sprintf("/a/b/mine/%d", n), 0), dcs.At("/a/b/none", 0)},
			Then: []dcs.Op{{Key: fmt.Sprintf("/a/b/mine/%d", n)}, {Key: "/a/b/gone", Delete: true}},
		})
		require.NoError(t, err)
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	kvs, err := holder.List(t.Context(), "/a/b/")
	require.NoError(t, err)
	require.Len(t, kvs, 1+(writers+1)*each)
}

func TestDigest(t *testing.T) {
	t.Parallel()
	server := testbed.StartZooKeeper(t)
	cfg := zk.Config{Servers: []string{server.Address()}, Chroot: "/pghad", Username: "ha", Password: "secret"}
	s := open(t, cfg)
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	_, err = dcs.Create(t.Context(), s, "/a/k", []byte("1"), session.ID())
	require.NoError(t, err)
	require.NoError(t, session.Renew(t.Context()))
	_, err = dcs.Put(t.Context(), open(t, cfg), "/a/l", nil)
	require.NoError(t, err, "whoever knows the password may write")

	want := client.DigestACL(client.PermAll, "ha", "secret")
	conn := admin(t, server.Address())
	require.NoError(t, conn.AddAuth("digest", []byte("ha:secret")))
	for _, path := range []string{"/pghad", "/pghad/a", "/pghad/a/:k", "/pghad/%sessions", "/pghad/%sessions/" + string(session.ID())} {
		acl, _, err := conn.GetACL(path)
		require.NoError(t, err)
		require.Equal(t, want, acl, path)
	}

	for _, change := range []func(*zk.Config){
		func(c *zk.Config) { c.Username, c.Password = "", "" },
		func(c *zk.Config) { c.Password = "wrong" },
	} {
		wrong := cfg
		change(&wrong)
		other := open(t, wrong)
		_, err := other.Get(t.Context(), "/a/k")
		requireOnly(t, err, dcs.ErrUnavailable)
		require.ErrorContains(t, err, "not authenticated")
		_, err = other.List(t.Context(), "/")
		requireOnly(t, err, dcs.ErrUnavailable)
		_, err = dcs.Put(t.Context(), other, "/a/k", nil)
		requireOnly(t, err, dcs.ErrUnavailable)
		_, err = other.NewSession(t.Context(), time.Minute)
		requireOnly(t, err, dcs.ErrUnavailable)
		u := await(t, other.Watch(t.Context(), "/"), func(u dcs.Update) bool { return u.Err != nil })
		requireOnly(t, u.Err, dcs.ErrUnavailable)
	}
}

func TestConfiguredACL(t *testing.T) {
	t.Parallel()
	acl := append(client.DigestACL(client.PermAll, "ha", "secret"), client.WorldACL(client.PermRead)...)
	cfg := onCommon(t)
	cfg.Username, cfg.Password, cfg.ACL = "ha", "secret", acl
	_, err := dcs.Put(t.Context(), open(t, cfg), "/a/k", []byte("1"))
	require.NoError(t, err)

	cfg.Username, cfg.Password = "", ""
	reader := open(t, cfg)
	kv, err := reader.Get(t.Context(), "/a/k")
	require.NoError(t, err)
	require.Equal(t, "1", string(kv.Value))
	_, err = dcs.CompareAndSwap(t.Context(), reader, "/a/k", kv.Revision, nil, "")
	requireOnly(t, err, dcs.ErrUnavailable)

	cfg.ACL, cfg.Chroot = client.AuthACL(client.PermAll), cfg.Chroot+"-of-nobody"
	_, err = dcs.Put(t.Context(), open(t, cfg), "/b/k", nil)
	requireOnly(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "invalid ACL")
}

func TestNegotiatedTTL(t *testing.T) {
	t.Parallel()
	server := testbed.StartZooKeeper(t, "minSessionTimeout=3000", "maxSessionTimeout=9000")
	s := open(t, zk.Config{Servers: []string{server.Address()}})
	for asked, granted := range map[time.Duration]time.Duration{
		time.Millisecond:        3 * time.Second,
		3 * time.Second:         3 * time.Second,
		4*time.Second + 1:       4*time.Second + time.Millisecond,
		8999 * time.Millisecond: 8999 * time.Millisecond,
		9 * time.Second:         9 * time.Second,
	} {
		for stalled := true; stalled; { // on a machine that does, for the whole TTL
			sent := time.Now()
			session, err := s.NewSession(t.Context(), asked)
			require.NoError(t, err)
			require.Equal(t, granted, session.TTL())
			err = session.Renew(t.Context())
			stalled = errors.Is(err, dcs.ErrSessionLost) && time.Since(sent) >= granted
			require.True(t, err == nil || stalled, "%v", err)
			require.NoError(t, session.Close(t.Context()))
		}
	}
	_, err := s.NewSession(t.Context(), 9*time.Second+1)
	requireOnly(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "at most 9s")
	_, _, err = admin(t, server.Address()).Children("/%sessions")
	require.NoError(t, err)
}

// TestNamesAreLookedUpAgain moves a server to another address.
func TestNamesAreLookedUpAgain(t *testing.T) {
	t.Parallel()
	old, now := testbed.StartZooKeeper(t), testbed.StartZooKeeper(t)
	var (
		mu sync.Mutex
		at = old
	)
	move := func(to *testbed.ZooKeeperServer) {
		mu.Lock()
		defer mu.Unlock()
		at = to
	}
	// The name stands for a port here, which the resolver cannot say: it says
	// which of the loopback addresses it is, and the servers are told apart by
	// what they refuse.
	lookup := func(_ context.Context, host string) ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case host == "gone.test":
			return nil, fmt.Errorf("no such host")
		case (host == "old.test") == (at == old):
			return []string{"127.0.0.1"}, nil
		default:
			return []string{"127.0.0.2"}, nil // nobody listens there
		}
	}
	port := func(s *testbed.ZooKeeperServer) string { return s.Address()[strings.LastIndexByte(s.Address(), ':'):] }
	s := open(t, zk.Config{
		Servers: []string{"gone.test:1", "old.test" + port(old), "new.test" + port(now)},
		Lookup:  lookup,
	})
	_, err := dcs.Put(t.Context(), s, "/k", []byte("old"))
	require.NoError(t, err)
	updates := s.Watch(t.Context(), "/")
	require.Len(t, (<-updates).KVs, 1)

	move(now)
	require.NoError(t, old.Kill())
	ctx := within(t, patience)
	_, err = s.Get(ctx, "/k")
	for ; errors.Is(err, dcs.ErrUnavailable) && ctx.Err() == nil; _, err = s.Get(ctx, "/k") {
		continue // that the old one is dead had not been noticed yet, or it was tried once more
	}
	requireOnly(t, err, dcs.ErrNotFound)
	await(t, updates, func(u dcs.Update) bool { return u.Err == nil && len(u.KVs) == 0 })
}

// TestLimitsOfAServer sends as much as a server takes, and more.
func TestLimitsOfAServer(t *testing.T) {
	t.Parallel()
	server := testbed.StartZooKeeper(t)
	s := open(t, zk.Config{Servers: []string{server.Address()}})
	// What the packet takes beside the value; see plan.size.
	most := zk.MaxPacket - (8 + 9) - (9 + 4 + len("/:k") + 4 + 4 + 8 + len("world") + 4 + len("anyone") + 4) - (9 + 4 + len("/") + 4 + 4)
	_, err := dcs.Put(t.Context(), s, "/k", make([]byte, most+1))
	requireOnly(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "1048576 bytes, of which ZooKeeper takes at most 1048575")
	for err = dcs.ErrAmbiguous; errors.Is(err, dcs.ErrAmbiguous); { // a loaded machine may take too long for it
		_, err = dcs.Put(within(t, patience), s, "/k", make([]byte, most))
	}
	require.NoError(t, err)
	kv, err := s.Get(t.Context(), "/k")
	require.NoError(t, err)
	require.Len(t, kv.Value, most)
	_, err = dcs.Create(t.Context(), s, "/l", nil, "0x7fffffffffffffff")
	requireOnly(t, err, dcs.ErrInvalid)
	_, err = dcs.CompareAndSwap(t.Context(), s, "/k", 1<<63, nil, "")
	requireOnly(t, err, dcs.ErrConflict)
}

// TestRenewalsDisturbNobody renews a session all the time while keys are written
// under it: no outcome is unknown, and no renewal fails.
func TestRenewalsDisturbNobody(t *testing.T) {
	t.Parallel()
	s := open(t, onCommon(t))
	session, err := s.NewSession(t.Context(), time.Hour)
	require.NoError(t, err)
	const writers, each = 4, 30
	var (
		wg   sync.WaitGroup
		errs [writers]error
	)
	for i := range writers {
		wg.Go(func() {
			key := fmt.Sprintf("/a/%d", i)
			for n := 0; n < each && errs[i] == nil; n++ {
				_, errs[i] = s.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: key, Session: session.ID()}}})
			}
		})
	}
	for range each {
		require.NoError(t, session.Renew(t.Context()))
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs[:]...))
}

// TestCloseUnderLoad closes stores whose calls are at every stage.
func TestCloseUnderLoad(t *testing.T) {
	t.Parallel()
	cfg := onCommon(t)
	for range 20 {
		s := open(t, cfg)
		session, err := s.NewSession(t.Context(), time.Hour)
		require.NoError(t, err)
		var wg sync.WaitGroup
		var done atomic.Int64
		for i := range 12 {
			wg.Go(func() {
				var err error
				for err == nil {
					switch key := fmt.Sprintf("/a/%d", i); i % 4 {
					case 0:
						_, err = dcs.Put(t.Context(), s, key, nil)
					case 1:
						_, err = s.List(t.Context(), "/")
					case 2:
						_, err = s.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: key, Session: session.ID()}}})
					default:
						err = session.Renew(t.Context())
					}
					done.Add(1)
				}
			})
		}
		require.Eventually(t, func() bool { return done.Load() > 50 }, patience, time.Millisecond)
		require.NoError(t, s.Close())
		wg.Wait()
	}
}

// TestCloseLeavesNoGoroutine is not parallel: it looks at all goroutines.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	server := testbed.StartZooKeeper(t)
	for range 3 {
		s, err := zk.Open(t.Context(), zk.Config{Servers: []string{server.Address()}, Username: "u", Password: "p"})
		require.NoError(t, err)
		session, err := s.NewSession(t.Context(), time.Minute)
		require.NoError(t, err)
		_, err = s.NewSession(t.Context(), time.Minute)
		require.NoError(t, err)
		require.NoError(t, session.Renew(t.Context()))
		<-s.Watch(t.Context(), "/")
		require.NoError(t, session.Close(t.Context()))
		require.NoError(t, s.Close())
		// The last goroutine only has to end.
		require.Eventually(t, func() bool { return len(leftovers()) == 0 }, patience, time.Millisecond,
			"left behind:\n%s", strings.Join(leftovers(), "\n\n"))
	}
}

// leftovers are the stacks of goroutines that belong to a store.
func leftovers() []string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var left []string
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		for _, owner := range []string{"go-zookeeper/zk", "pghad/dcs/zk."} {
			if strings.Contains(stack, owner) && !strings.Contains(stack, "leftovers") && !strings.Contains(stack, "testing.(*T)") {
				left = append(left, stack)
				break
			}
		}
	}
	return left
}
