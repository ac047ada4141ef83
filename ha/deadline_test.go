package ha

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/quorum"
)

// heldServer is a server in the hands of a guard, of which only the deadline counts.
type heldServer struct {
	PostgresController
	mu    sync.Mutex
	told  []time.Duration // what was left, each time
	fails error
}

func (s *heldServer) SetDeadline(_ context.Context, left func() time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		return s.fails
	}
	s.told = append(s.told, left().Round(time.Millisecond))
	return nil
}

func (s *heldServer) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = err
}

// heard are the deadlines that were told since the last call.
func (s *heldServer) heard() []time.Duration {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.told
	s.told = nil
	return told
}

// keeping runs what keeps the deadline of a server for the length of a test.
func keeping(t *testing.T, server PostgresController) *warrant {
	t.Helper()
	w, _ := inOffice(t, 1)
	n := &Node{cfg: NodeConfig{Postgres: server, Timing: w.locker.timing, Clock: clock.New(), Logger: slog.New(slog.DiscardHandler)}, locker: w.locker}
	o := &office{warrant: w}
	o.ctx, o.cancel = context.WithCancelCause(t.Context())
	o.asking.Go(func() { n.keepDeadline(o) })
	t.Cleanup(func() {
		w.leave(errors.New("the test is over"))
		o.cancel(nil)
		o.asking.Wait()
	})
	return w
}

func TestDeadlineMovesWithEachRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &heldServer{}
		w := keeping(t, server)
		worth := w.locker.timing.window(10 * time.Second)
		require.Equal(t, []time.Duration{worth.Round(time.Millisecond)}, slices.Compact(server.heard()))
		for range 3 {
			time.Sleep(w.locker.timing.RenewEvery)
			told := server.heard()
			require.NotEmpty(t, told)
			require.InDelta(t, worth, told[len(told)-1], float64(100*time.Millisecond))
		}
	})
}

func TestDeadlineFollowsMaintenanceAndPromises(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &heldServer{}
		w := keeping(t, server)
		last := func() time.Duration {
			told := server.heard()
			require.NotEmpty(t, told)
			return told[len(told)-1]
		}
		last()
		w.seen(true, true, nil)
		require.Equal(t, unlimited, last(), "in maintenance nothing stops the server")
		w.seen(true, false, nil)
		require.Less(t, last(), 10*time.Second, "and then the lease counts again")
		time.Sleep(w.locker.timing.RenewEvery / 2)
		w.ask(t.Context(), tellers{})
		require.InDelta(t, w.locker.timing.window(10*time.Second), last(), float64(time.Millisecond), "a promise is newer than the last renewal")
	})
}

func TestDeadlineIsRevokedWhenTheWarrantEndsEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &heldServer{}
		w := keeping(t, server)
		server.heard()
		loseLease(t, w)
		told := server.heard()
		require.NotEmpty(t, told)
		require.Zero(t, told[len(told)-1])
	})
}

func TestDeadlineIsToldAgainUntilItIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &heldServer{fails: errors.New("the guard does not answer")}
		w := keeping(t, server)
		require.Empty(t, server.heard())
		server.fail(nil)
		time.Sleep(w.locker.timing.RenewEvery / 2)
		require.NotEmpty(t, server.heard(), "without waiting for the next renewal")
	})
}

// A primary without which no election can be held tells its guard again and again:
// at a steady pace, whatever else moves its warrant.
func TestDeadlineOfAPrimaryThatIsAloneIsToldAtASteadyPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &heldServer{}
		w := keeping(t, server)
		w.settle(quorum.Config{Mode: quorum.ModeQuorum, Primary: life("a")})
		w.poke()
		server.heard()
		const periods = 20
		for range 3 * periods {
			time.Sleep(w.locker.timing.RenewEvery / 3)
			w.poke() // as a promise or a look does
		}
		told := server.heard()
		require.GreaterOrEqual(t, len(told), 3*periods)
		require.LessOrEqual(t, len(told), 8*periods, "each poke and each renewal is told once, and no timer is left over")
		for _, left := range told {
			require.LessOrEqual(t, left, w.locker.timing.window(10*time.Second).Round(time.Millisecond), "no deadline outlasts a lease, if others are added")
		}
	})
}
