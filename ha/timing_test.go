package ha_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
)

func TestTimingDefaults(t *testing.T) {
	t.Parallel()
	require.Equal(t, ha.Timing{
		TTL: 10 * time.Second, RenewEvery: 3 * time.Second, Margin: 2 * time.Second,
		Observe: time.Second, Request: 2 * time.Second, RemovalDelay: 5 * time.Second,
		ElectionTimeout: 10 * time.Second, MaxDrift: 0.01,
	}, ha.Timing{}.Defaults())
	require.NoError(t, ha.Timing{}.Defaults().Validate())
	given := ha.Timing{TTL: 3 * time.Second, RenewEvery: time.Second, Margin: time.Second / 2}
	require.Equal(t, time.Second, given.Defaults().Request, "a request is not longer than a renewal")
	require.NoError(t, given.Defaults().Validate())
}

func TestTimingValidate(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		timing ha.Timing
		want   string
	}{
		{"margin", ha.Timing{Margin: 5 * time.Second}, "margin 5s + 2 × renew 3s = 11s ≥ ttl 10s"},
		{"ttl", ha.Timing{TTL: 8 * time.Second}, "margin 2s + 2 × renew 3s = 8s ≥ ttl 8s"},
		{"drift", ha.Timing{TTL: 8100 * time.Millisecond}, "margin 2s + 2 × renew 3s = 8s ≥ 7.93"},
		{"request", ha.Timing{Request: 4 * time.Second}, "request 4s > renew 3s"},
		{"observe", ha.Timing{Observe: 10 * time.Second}, "observe 10s ≥ ttl 10s"},
		{"election", ha.Timing{ElectionTimeout: 5 * time.Second}, "observe 1s + 2 × request 2s = 5s ≥ election timeout 5s"},
		{"negative", ha.Timing{RemovalDelay: -1}, "removal delay -1ns is not positive"},
		{"percent", ha.Timing{MaxDrift: 1}, "max drift 1 is not a fraction"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			require.ErrorContains(t, tc.timing.Defaults().Validate(), tc.want)
		})
	}
	require.Error(t, ha.Timing{}.Validate(), "Defaults come first")
}

func TestNewLockerRefuses(t *testing.T) {
	t.Parallel()
	store := memory.New(memory.Config{}).Client("a")
	_, err := ha.NewLocker(ha.LockerConfig{})
	require.ErrorContains(t, err, "no Store")
	_, err = ha.NewLocker(ha.LockerConfig{Store: store, Margin: 5 * time.Second})
	require.ErrorContains(t, err, "margin 5s + 2 × renew 3s = 11s ≥ ttl 10s")
	_, err = ha.NewLocker(ha.LockerConfig{Store: store, RenewEvery: -1})
	require.ErrorContains(t, err, "renew -1ns is not positive")
}
