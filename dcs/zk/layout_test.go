package zk_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/zk"
)

func TestLayout(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ root, key, folder, node string }{
		{"", "/k", "/", "/:k"},
		{"", "/a/k", "/a", "/a/:k"},
		{"/pghad", "/k", "/pghad", "/pghad/:k"},
		{"/pghad", "/service/main", "/pghad/service", "/pghad/service/:main"},
		{"/pghad", "/service/main/leader", "/pghad/service/main", "/pghad/service/main/:leader"},
		{"/pghad", "/service/main/quorum/members/a", "/pghad/service/main", "/pghad/service/main/:quorum:members:a"},
		{"", "/zookeeper/quota", "/%7Aookeeper", "/%7Aookeeper/:quota"},
		{"", "/a b/c:d/%/x=y", "/a b/c%3Ad", "/a b/c%3Ad/:%25:x=y"},
		{"", "/é/😀", "/é", "/é/:%F0%9F%98%80"},
		{"", "/a/b/.../..c", "/a/b", "/a/b/:...:..c"},
		{"", "/\ufffd", "/", "/:%EF%BF%BD"},
	} {
		folder, node := zk.PlaceOf(tc.root, tc.key)
		require.Equal(t, tc.folder, folder, "folder of %s", tc.key)
		require.Equal(t, tc.node, node, "node of %s", tc.key)
		key, ok := zk.KeyAt(tc.root, node)
		require.True(t, ok, "%s", node)
		require.Equal(t, tc.key, key)
	}
}

// TestForeignNodesAreNoKeys is about nodes that somebody else has put among
// ours: a key has exactly one node.
func TestForeignNodesAreNoKeys(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/k", "/:", "/a/:", "/:a:", "/::a", "/:a:b:c", "/a/:b:c", "/:%6B", "/:%3a", "/:%", "/:%zz", "/:%2F", "/:%FF", "/:%2E%2E",
		"/%sessions/0x1", "/zookeeper/:k", "/%61/:k", "/a/b/c/:k", "/a:b/:k",
		"/:" + strings.Repeat("k", dcs.MaxKeyLen),
	} {
		key, ok := zk.KeyAt("", path)
		require.False(t, ok, "%s passes for %q", path, key)
	}
}

func FuzzLayout(f *testing.F) {
	f.Add("/service/main/quorum/members/a")
	f.Add("/a:b/%41/c d/😀")
	f.Fuzz(func(t *testing.T, key string) {
		if dcs.ValidateKey(key) != nil {
			t.Skip()
		}
		folder, node := zk.PlaceOf("/root", key)
		require.True(t, strings.HasPrefix(node, folder+"/:"))
		back, ok := zk.KeyAt("/root", node)
		require.True(t, ok)
		require.Equal(t, key, back)
	})
}
