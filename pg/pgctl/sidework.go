package pgctl

import (
	"context"
	"sync"
)

// sideWork is one background task that nobody waits for but Stop and Close.
type sideWork struct {
	mu     sync.Mutex
	cancel context.CancelFunc
	done   chan struct{}
}

// start ends the task before it and begins another one, under parent.
func (w *sideWork) start(parent context.Context, task func(context.Context)) {
	w.end()
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, cancel := context.WithCancel(parent)
	done := make(chan struct{})
	w.cancel, w.done = cancel, done
	go func() {
		defer close(done)
		task(ctx)
	}()
}

// end ends the task and waits for it.
func (w *sideWork) end() {
	w.mu.Lock()
	cancel, done := w.cancel, w.done
	w.cancel, w.done = nil, nil
	w.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
}
