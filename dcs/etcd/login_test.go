package etcd_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/testbed"
)

// protect enables authentication with the user root and another one, node, who
// may use /ours/ and nothing else.
func protect(t *testing.T, server *testbed.EtcdServer) {
	t.Helper()
	client, ctx := admin(t, server, clientv3.Config{}), t.Context()
	_, err := client.UserAdd(ctx, "root", "secret")
	require.NoError(t, err)
	_, err = client.UserGrantRole(ctx, "root", "root")
	require.NoError(t, err)
	_, err = client.RoleAdd(ctx, "node")
	require.NoError(t, err)
	_, err = client.RoleGrantPermission(ctx, "node", "/ours/", clientv3.GetPrefixRangeEnd("/ours/"), clientv3.PermissionType(clientv3.PermReadWrite))
	require.NoError(t, err)
	_, err = client.UserAdd(ctx, "node", "word")
	require.NoError(t, err)
	_, err = client.UserGrantRole(ctx, "node", "node")
	require.NoError(t, err)
	_, err = client.AuthEnable(ctx)
	require.NoError(t, err)
}

func TestLogin(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	// A password where none is needed yet.
	s := open(t, etcd.Config{Endpoints: server.Endpoints(), Username: "root", Password: "secret"})
	_, err := dcs.Put(t.Context(), s, "/k", nil)
	require.NoError(t, err)

	protect(t, server)
	_, err = dcs.Put(t.Context(), s, "/k", nil)
	require.NoError(t, err, "the login is made up for")
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	require.NoError(t, session.Renew(t.Context()))
	updates := s.Watch(t.Context(), "/")
	require.Len(t, (<-updates).KVs, 1)

	// A restarted server has forgotten all tokens.
	require.NoError(t, server.Restart(t.Context()))
	_, err = dcs.Put(within(t, patience), s, "/l", nil)
	require.NoError(t, err)
	await(t, updates, func(u dcs.Update) bool { return len(u.KVs) == 2 })

	for _, cfg := range []etcd.Config{
		{Username: "root", Password: "wrong"},
		{Username: "nobody", Password: "secret"},
		{},
	} {
		cfg.Endpoints = server.Endpoints()
		_, err = dcs.Put(within(t, patience), open(t, cfg), "/k", nil)
		requireOnly(t, err, dcs.ErrUnavailable)
	}
}

// TestLoginOfALimitedUser: what a user may not do surely is not done, and the
// rest is.
func TestLoginOfALimitedUser(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	protect(t, server)
	root := open(t, etcd.Config{Endpoints: server.Endpoints(), Username: "root", Password: "secret"})
	s := open(t, etcd.Config{Endpoints: server.Endpoints(), Username: "node", Password: "word"})
	ctx := within(t, patience)
	session, err := s.NewSession(ctx, time.Minute)
	require.NoError(t, err)
	require.NoError(t, session.Renew(ctx))
	_, err = dcs.Create(ctx, s, "/ours/k", nil, session.ID())
	require.NoError(t, err)
	require.Len(t, (<-s.Watch(t.Context(), "/ours/")).KVs, 1)

	for _, txn := range []dcs.Txn{
		{Then: []dcs.Op{{Key: "/theirs/k"}}},
		{Then: []dcs.Op{{Key: "/ours/l"}, {Key: "/theirs/k"}}},
		{If: []dcs.Guard{dcs.At("/theirs/k", 0)}, Then: []dcs.Op{{Key: "/ours/l"}}},
	} {
		_, err = s.Commit(ctx, txn)
		requireOnly(t, err, dcs.ErrUnavailable)
		require.ErrorContains(t, err, "grant a role of the user")
	}
	_, err = s.Get(ctx, "/theirs/k")
	requireOnly(t, err, dcs.ErrUnavailable)
	u := <-s.Watch(t.Context(), "/theirs/")
	requireOnly(t, u.Err, dcs.ErrUnavailable)
	kvs, err := root.List(ctx, "/")
	require.NoError(t, err)
	require.Len(t, kvs, 1, "nothing of what was refused is there")
}

// TestTokensExpire uses tokens that a server forgets soon, of both kinds: nobody
// notices.
func TestTokensExpire(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	private := writePEM(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
	for name, binary := range versions {
		for kind, arg := range map[string]string{
			"simple": "--auth-token-ttl=1",
			"jwt":    fmt.Sprintf("--auth-token=jwt,pub-key=%s,priv-key=%s,sign-method=RS256,ttl=3s", writePEM(t, "PUBLIC KEY", public), private),
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				server, err := testbed.NewEtcdServer(testbed.EtcdConfig{Binary: binary(t), Dir: t.TempDir(), Args: []string{arg}})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, server.Kill()) })
				require.NoError(t, server.Start(t.Context()))
				protect(t, server)
				tokensExpire(t, server)
			})
		}
	}
}

func tokensExpire(t *testing.T, server *testbed.EtcdServer) {
	// This client meets the expiry, and shows when it has come.
	plain := admin(t, server, clientv3.Config{})
	old, err := plain.Authenticate(t.Context(), "node", "word")
	require.NoError(t, err)
	expired := func() bool {
		ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.TokenFieldNameGRPC, old.Token)
		_, err := plain.Get(ctx, "/ours/k")
		return err != nil
	}

	s := open(t, etcd.Config{Endpoints: server.Endpoints(), Username: "node", Password: "word"})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session, err := s.NewSession(ctx, time.Minute)
	require.NoError(t, err)
	rev, err := dcs.Create(ctx, s, "/ours/k", nil, session.ID())
	require.NoError(t, err)
	updates := s.Watch(t.Context(), "/ours/")
	require.Len(t, (<-updates).KVs, 1)
	// Every use makes a token of the simple kind live longer.
	require.Eventually(t, expired, patience, 3*time.Second)

	_, err = dcs.CompareAndSwap(ctx, s, "/ours/k", rev, []byte("2"), session.ID())
	require.NoError(t, err)
	u := await(t, updates, func(u dcs.Update) bool { return u.Err != nil || string(u.KVs[0].Value) == "2" })
	require.NoError(t, u.Err, "a watch outlives its token")
	require.NoError(t, session.Renew(ctx))
	_, err = s.Get(ctx, "/ours/k")
	require.NoError(t, err)

	// A change of the users makes the tokens of all of them worthless as well.
	root := admin(t, server, clientv3.Config{Username: "root", Password: "secret"})
	_, err = root.UserAdd(ctx, "another", "word")
	require.NoError(t, err)
	_, err = dcs.Put(ctx, s, "/ours/k", []byte("3"))
	require.NoError(t, err)
	require.NoError(t, session.Close(ctx))

	// And so does the loss of the right to come at all.
	_, err = root.UserChangePassword(ctx, "node", "another")
	require.NoError(t, err)
	_, err = dcs.Put(ctx, s, "/ours/k", []byte("4"))
	if err != nil && !errors.Is(err, dcs.ErrUnavailable) {
		require.NoError(t, err)
	}
	kv, readErr := open(t, etcd.Config{Endpoints: server.Endpoints(), Username: "node", Password: "another"}).Get(ctx, "/ours/k")
	require.NoError(t, readErr)
	require.Equal(t, map[bool]string{true: "4", false: "3"}[err == nil], string(kv.Value))
}
