package record

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDecodeConfig(t *testing.T) {
	t.Parallel()
	const key = "/service/orders/config"
	read, err := DecodeConfig(key, []byte(`{"format":1,"version":3,"nonce":"x","changed":"2026-11-20T10:00:00Z","by":"jo@h","values":{"mode":"async"}}`))
	require.NoError(t, err)
	require.EqualValues(t, 3, read.Version)
	require.JSONEq(t, `"async"`, string(read.Values["mode"]))
	again, err := DecodeConfig(key, Encode(read))
	require.NoError(t, err)
	require.Equal(t, read, again)

	empty, err := DecodeConfig(key, nil)
	require.NoError(t, err)
	require.Zero(t, empty, "emptied")

	for text, want := range map[string]string{
		`{"format":2,"version":1}`:                   "format 2, this version reads up to 1; upgrade this node",
		`{"format":1,"version":1,"ttl":5}`:           `unknown field "ttl"`,
		`{"format":1,"version":0}`:                   "format 1, version 0: both begin with 1",
		`{"version":1}`:                              "format 0, version 1: both begin with 1",
		`{"format":1,"version":1} {"format":1}`:      "invalid character",
		`{"format":1,"version":1,"values":["mode"]}`: "cannot unmarshal array",
		`[]`: "cannot unmarshal array",
		`{"format":1,"version":1,"values":{"mode":"async"},}`: "invalid character",
		`{"format":1,"version":-1,"values":{"mode":"async"}}`: "cannot unmarshal number -1",
	} {
		_, err := DecodeConfig(key, []byte(text))
		require.ErrorContains(t, err, want, text)
		require.ErrorContains(t, err, "record "+key+": ", text)
	}
	_, err = DecodeConfig(key, []byte(`{"format":2}`))
	require.ErrorIs(t, err, ErrNewer)
}
