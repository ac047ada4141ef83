package hatest

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// logHandler writes what an agent logs into the transcript.
type logHandler struct {
	world *World
	agent *agent
	level slog.Level
	attrs []slog.Attr
}

var _ slog.Handler = (*logHandler)(nil)

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *logHandler) WithGroup(string) slog.Handler { return h }

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.attrs = append(append([]slog.Attr(nil), h.attrs...), attrs...)
	return &next
}

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", h.agent.name, r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.world.mu.Lock()
	defer h.world.mu.Unlock()
	if !h.agent.dead {
		h.world.writeLine(b.String())
	}
	return nil
}
