package etcd_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
)

// TestCheckIsLinearizable: etcd answers a transaction without any operation
// from the data of the member that is asked, however old. A holder that was
// fenced would hear that its lock is still there.
func TestCheckIsLinearizable(t *testing.T) {
	t.Parallel()
	request, err := etcd.ToEtcd(dcs.Txn{If: []dcs.Guard{dcs.Held("/a/lock", 7)}})
	require.NoError(t, err)
	for name, branch := range map[string]int{"success": len(request.Success), "failure": len(request.Failure)} {
		require.Equal(t, 1, branch, "the %s branch reads", name)
	}
	require.False(t, request.Success[0].GetRequestRange().GetSerializable())
	require.NotNil(t, request.Failure[0].GetRequestRange())

	request, err = etcd.ToEtcd(dcs.Txn{Then: []dcs.Op{{Key: "/a/x", Value: []byte("v")}}})
	require.NoError(t, err)
	require.Empty(t, request.Failure, "a write goes through consensus by itself")
}
