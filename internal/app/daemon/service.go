package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/pghad/pghad/ha"
)

// service tells the service manager that has started this process how the node
// is: systemd's protocol (sd_notify), for a unit of Type=notify. Without one it does
// nothing.
type service struct {
	logger   *slog.Logger
	patience time.Duration // how long one turn of the node may take

	mu    sync.Mutex
	doing string // the effect that the node is carrying out, "" if none
	ready bool   // the manager has been told so
}

func newService(logger *slog.Logger, timing ha.Timing) *service {
	// Every step of a turn is bounded by one of these, but for those in unbounded.
	return &service{logger: logger, patience: 3 * (timing.TTL + timing.ElectionTimeout)}
}

// unbounded are the effects that take as long as there is data.
var unbounded = []string{"rejoin/", "bootstrap/"}

// effects are the hooks by which it is known what the node does.
func (s *service) effects() ha.Effects {
	set := func(name string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.doing = name
	}
	return ha.Effects{Before: set, After: func(string) { set("") }}
}

// run follows the node until ctx ends.
func (s *service) run(ctx context.Context, node interface{ Status() ha.NodeStatus }) {
	every := time.Second
	limit, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		s.logger.WarnContext(ctx, "the watchdog of systemd is not fed", "error", err)
	}
	if limit > 0 {
		every = min(every, limit/3)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	said := ""
	for {
		select {
		case now := <-ticker.C:
			status := node.Status()
			if status.At.IsZero() {
				continue // it has not looked yet
			}
			var news []string
			if s.becomesReady() {
				news = append(news, sd.SdNotifyReady)
			}
			if text := statusLine(status); text != said {
				news, said = append(news, "STATUS="+text), text
			}
			if limit > 0 && s.moves(now, status) {
				news = append(news, sd.SdNotifyWatchdog)
			}
			s.notify(ctx, news...)
		case <-ctx.Done():
			return
		}
	}
}

// becomesReady reports whether the manager is to be told that the service is ready.
func (s *service) becomesReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.ready
	s.ready = true
	return first
}

func (s *service) isReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// reloading says that the configuration is being read again, and what it returns says
// that it has been, whatever came of it. Before the service is ready the manager is
// told neither.
func (s *service) reloading(ctx context.Context) (reloaded func()) {
	if !s.isReady() {
		return func() {}
	}
	s.notify(ctx, sd.SdNotifyReloading, strings.TrimSpace(sd.SdNotifyMonotonicUsec()))
	return func() { s.notify(ctx, sd.SdNotifyReady) }
}

// ending says that the process is about to end, which may take a while.
func (s *service) ending() { s.notify(context.Background(), sd.SdNotifyStopping) }

func (s *service) notify(ctx context.Context, news ...string) {
	if len(news) == 0 {
		return
	}
	if _, err := sd.SdNotify(false, strings.Join(news, "\n")); err != nil {
		s.logger.WarnContext(ctx, "systemd is not told how the node is", "error", err)
	}
}

// moves reports whether the node's loop goes on. One that hangs, for example in a
// call of the operating system about a dead disk, is for the watchdog to end.
func (s *service) moves(now time.Time, status ha.NodeStatus) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, prefix := range unbounded {
		if strings.HasPrefix(s.doing, prefix) {
			return true
		}
	}
	return now.Sub(status.At) < s.patience
}

// statusLine is what "systemctl status" shows.
func statusLine(status ha.NodeStatus) string {
	text := status.Plan
	switch {
	case status.Term > 0:
		text = fmt.Sprintf("primary in term %d, timeline %d", status.Term, status.Server.Timeline)
	case status.Leader != "":
		text = fmt.Sprintf("%s, the primary is %s", status.Plan, status.Leader)
	}
	if status.Why != "" {
		text += "; " + status.Why
	}
	return strings.Join(strings.Fields(text), " ")
}
