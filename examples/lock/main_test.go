package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/testbed"
)

// lines is an output that ends a context after so many lines.
type lines struct {
	bytes.Buffer
	left int
	end  context.CancelFunc
}

func (l *lines) Write(p []byte) (int, error) {
	if l.left -= bytes.Count(p, []byte("\n")); l.left <= 0 {
		l.end()
	}
	return l.Buffer.Write(p)
}

// lead runs the example until it has counted twice.
func lead(t *testing.T, store dcs.Store, name string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &lines{left: 2, end: cancel}
	require.NoError(t, run(ctx, store, name, out))
	return out.String()
}

func TestLock(t *testing.T) {
	t.Parallel()
	for name, where := range map[string]func(t *testing.T) (endpoint, server string){
		"memory":    func(*testing.T) (endpoint, server string) { return "", "" },
		"etcd":      func(t *testing.T) (endpoint, server string) { return testbed.StartEtcd(t).Endpoints()[0], "" },
		"zookeeper": func(t *testing.T) (endpoint, server string) { return "", testbed.StartZooKeeper(t).Address() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endpoint, server := where(t)
			store, err := open(t.Context(), endpoint, server)
			require.NoError(t, err)
			defer func() { require.NoError(t, store.Close()) }()
			first := strings.Split(lead(t, store, "a"), "\n")
			second := strings.Split(lead(t, store, "b"), "\n")
			for i, text := range slices.Concat(first[:2], second[:2]) {
				require.Regexp(t, []string{
					`^a counts 1 under token \d+, error: <nil>$`, `^a counts 2 under token \d+, error: <nil>$`,
					`^b counts 3 under token \d+, error: <nil>$`, `^b counts 4 under token \d+, error: <nil>$`,
				}[i], text)
			}
			require.Equal(t, "a does not hold the lock any more: context canceled", first[2])
		})
	}
}
