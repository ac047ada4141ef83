package dcs_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
)

func TestValidateKey(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("k", dcs.MaxKeyLen)
	for _, tc := range []struct{ key, says string }{
		{"/service/a/leader", ""},
		{"/служба/a", ""},
		{"/a b", ""},
		{long[:dcs.MaxKeyLen], ""},
		{"", "does not start with a slash"},
		{"a", "does not start with a slash"},
		{"/", "ends with a slash"},
		{"/a/", "ends with a slash"},
		{"/a//b", "empty segment"},
		{"/a/./b", "which some stores resolve"},
		{"/a/..", "which some stores resolve"},
		{"/a\n", "unprintable character at byte 2"},
		{"/a\x00", "unprintable character at byte 2"},
		{"/\xff", "not valid UTF-8"},
		{long, "is longer than 1024"},
	} {
		err := dcs.ValidateKey(tc.key)
		if tc.says == "" {
			require.NoError(t, err, "%q", tc.key)
			continue
		}
		require.ErrorIs(t, err, dcs.ErrInvalid, "%q", tc.key)
		require.ErrorContains(t, err, tc.says)
	}
}

func TestValidatePrefix(t *testing.T) {
	t.Parallel()
	for prefix, valid := range map[string]bool{
		"/": true, "/a": true, "/a/": true, "/a/b": true,
		"": false, "a": false, "//": false, "/a//": false, "/\t": false,
	} {
		err := dcs.ValidatePrefix(prefix)
		if valid {
			require.NoError(t, err, "%q", prefix)
		} else {
			require.ErrorIs(t, err, dcs.ErrInvalid, "%q", prefix)
		}
	}
}

func TestTxnValidate(t *testing.T) {
	t.Parallel()
	put := []dcs.Op{{Key: "/k"}}
	for _, tc := range []struct {
		name string
		txn  dcs.Txn
		says string
	}{
		{"write", dcs.Txn{Then: put}, ""},
		{"check only", dcs.Txn{If: []dcs.Guard{{Key: "/k", Absent: true}}}, ""},
		{"revision and creation", dcs.Txn{If: []dcs.Guard{{Key: "/k", Revision: 2, Created: 1}}, Then: put}, ""},
		{"two guards on a key", dcs.Txn{If: []dcs.Guard{{Key: "/k", Revision: 2}, {Key: "/k", Created: 1}}, Then: put}, ""},
		{"nothing", dcs.Txn{}, "neither a guard nor an operation"},
		{"guard without a form", dcs.Txn{If: []dcs.Guard{{Key: "/k"}}, Then: put}, "neither absent nor a revision"},
		{"guard with both forms", dcs.Txn{If: []dcs.Guard{{Key: "/k", Absent: true, Created: 1}}, Then: put}, "both absent and written"},
		{"key of a guard", dcs.Txn{If: []dcs.Guard{{Key: "k", Absent: true}}, Then: put}, "does not start with a slash"},
		{"key of an operation", dcs.Txn{Then: []dcs.Op{{Key: "/k/"}}}, "ends with a slash"},
		{"key twice", dcs.Txn{Then: []dcs.Op{{Key: "/k"}, {Key: "/k", Delete: true}}}, "two operations"},
		{"deletion with a value", dcs.Txn{Then: []dcs.Op{{Key: "/k", Delete: true, Value: []byte("v")}}}, "has a value or a session"},
		{"deletion with a session", dcs.Txn{Then: []dcs.Op{{Key: "/k", Delete: true, Session: "s"}}}, "has a value or a session"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			err := tc.txn.Validate()
			if tc.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, dcs.ErrInvalid)
			require.ErrorContains(t, err, tc.says)
		})
	}
}
