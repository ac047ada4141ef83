package guard

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestInstant(t *testing.T) {
	t.Parallel()
	now := Instant{Boot: 100, Wall: 1000}
	deadline := now.Add(50)
	require.Equal(t, Instant{Boot: 150, Wall: 1050}, deadline)
	for name, test := range map[string]struct {
		now     Instant
		left    time.Duration
		reached bool
	}{
		"neither clock is there":       {Instant{149, 1049}, 1, false},
		"both are":                     {Instant{150, 1050}, 0, true},
		"the machine was suspended":    {Instant{150, 1001}, 0, true},
		"the wall clock was set":       {Instant{101, 9000}, 1050 - 9000, true},
		"the wall clock was set back":  {Instant{120, 10}, 30, false},
		"and the deadline passes then": {Instant{151, 41}, -1, true},
	} {
		require.Equal(t, test.left, deadline.Left(test.now), name)
		require.Equal(t, test.reached, deadline.Reached(test.now), name)
	}
	far := now.Add(math.MaxInt64)
	require.False(t, far.Reached(now))
	require.Positive(t, far.Left(now))
	require.True(t, now.Add(math.MinInt64).Add(math.MinInt64).Reached(now))
	require.Negative(t, now.Add(math.MinInt64).Left(Instant{Boot: math.MaxInt64, Wall: math.MaxInt64}))
}

func TestNowMovesOnBothClocks(t *testing.T) {
	t.Parallel()
	before := Now()
	require.Positive(t, before.Boot)
	require.Positive(t, before.Wall)
	require.Eventually(t, func() bool {
		now := Now()
		return now.Boot > before.Boot && now.Wall > before.Wall
	}, time.Minute, time.Millisecond)
}

func TestDeadlineIsCountedFromWhenItWasRead(t *testing.T) {
	t.Parallel()
	now := Instant{Boot: 1000, Wall: 5000}
	require.Equal(t, now.Add(10), Deadline{Left: 10}.until(now))
	held := Instant{Boot: 900, Wall: 4900}
	require.True(t, Deadline{Left: 100, At: &held}.until(now).Reached(now), "it was held up for as long as it was worth")
	future := Instant{Boot: 9000, Wall: 4999}
	require.Equal(t, Instant{Boot: 1010, Wall: 5009}, Deadline{Left: 10, At: &future}.until(now))
}

func TestDecodeRequest(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		``:                                        "EOF",
		`hello`:                                   "invalid character",
		`{"id":1}`:                                "this is 0 of them",
		`{"id":1,"status":{},"stop":{}}`:          "this is 2 of them",
		`{"id":1,"status":{}} {"id":2}`:           "more on the line",
		`{"id":1,"stop":{"mode":"smart"}}`:        `mode "smart"`,
		`{"id":1,"start":{"argv":[]}}`:            "argv is empty",
		`{"id":1,"start":{"deadlin":{}}}`:         "unknown field",
		`{"id":1,"reload":{}}`:                    "unknown field",
		`{"id":1,"deadline":{"left":7}}`:          "cannot unmarshal",
		`{"id":1,"deadline":{"left":"7"}}`:        "missing unit",
		`{"id":1,"deadline":{"at":{"boot":5}}}`:   "both clocks",
		`{"id":-1,"status":{}}`:                   "cannot unmarshal",
		`{"id":1,"deadline":{"left":"1s"}`:        "unexpected EOF",
		`{"id":1,"start":{"argv":["a"],"env":1}}`: "cannot unmarshal",
	} {
		_, err := decodeRequest([]byte(line))
		require.ErrorContains(t, err, want, line)
	}
	r, err := decodeRequest([]byte(`{"id":7,"deadline":{"left":"7.5s","at":{"boot":1,"wall":2}}}`))
	require.NoError(t, err)
	require.Equal(t, Request{ID: 7, Deadline: &Deadline{Left: Duration(7500 * time.Millisecond), At: &Instant{1, 2}}}, r)
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"id":1,"start":{"argv":["/bin/true"],"env":["A=b"],"dir":"/","credential":{"uid":1,"gid":2,"groups":[3]},"log":"/x","deadline":{"left":"1s"}}}`))
	f.Add([]byte(`{"id":2,"deadline":{"left":"-9223372036854775808ns","at":{"boot":1,"wall":9223372036854775807}}}`))
	f.Add([]byte(`{"id":3,"stop":{"mode":"fast"}}`))
	f.Add([]byte(`{"id":4,"status":{}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeRequest(line)
		if err != nil {
			return
		}
		now := Instant{Boot: 1000, Wall: 2000}
		if r.Deadline != nil && r.Deadline.Left <= 0 {
			require.True(t, r.Deadline.until(now).Reached(now))
		}
		again, err := json.Marshal(r)
		require.NoError(t, err)
		same, err := decodeRequest(again)
		require.NoError(t, err)
		twice, err := json.Marshal(same)
		require.NoError(t, err)
		require.JSONEq(t, string(again), string(twice))
	})
}

func TestErrorsAreCompared(t *testing.T) {
	t.Parallel()
	require.ErrorIs(t, because(ErrPassed, "late"), ErrPassed)
	require.NotErrorIs(t, because(ErrPassed, "late"), ErrBusy)
	require.NotErrorIs(t, ErrNoGuard, ErrBusy)
}
