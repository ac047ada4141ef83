package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

const (
	// settingsTimeout bounds one attempt to give the server other settings, which
	// waits for what the server is doing.
	settingsTimeout = 15 * time.Second
	// settingsAgain is the pause before it is tried again.
	settingsAgain = 5 * time.Second
)

// settings keep a running node by its configuration: they take up what changes in
// the cluster's record, and in the node's file when that is asked for. What cannot be
// taken up changes nothing: the node goes on with what it has, and says why.
type settings struct {
	logger     *slog.Logger
	read       func() (*config.Config, error) // file, environment and flags, without a record; nil: they are fixed
	level      func(text string)              // sets the least severity that is logged; may be nil
	controller interface {
		Reconfigure(ctx context.Context, s pgctl.Settings) error
	}
	node interface {
		Reconfigure(s ha.Settings) error
	}
	line    *line
	keeper  keeper
	service *service
	again   time.Duration

	// What follows belongs to run.
	base    *config.Config // file, environment and flags, as they were last taken
	running *config.Config // in force
	kept    keptRecord
	state   record.ConfigState
	waiting *attempt // could not be made yet

	news chan struct{} // the record is another one; holds one
	mu   sync.Mutex    // guards info
	info *ha.ConfigInfo
}

// attempt is a configuration that is to come into force.
type attempt struct {
	base   *config.Config
	record *config.Record
	stored record.Config // that record, as the store holds it
	reason string        // for the log

	refresh bool // files that the configuration names are read again, also where their names are the same
}

func newSettings(logger *slog.Logger, start startConfig) *settings {
	return &settings{
		logger: logger, again: settingsAgain, news: make(chan struct{}, 1),
		base: start.base, running: start.config, kept: start.kept, keeper: start.keeper,
		state: record.ConfigState{Version: start.config.Record().Version(), Nonce: start.config.Record().Nonce(), Problem: start.problem},
	}
}

// tell is for Events.Config. It does not block.
func (s *settings) tell(info ha.ConfigInfo) {
	s.mu.Lock()
	s.info = &info
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// run takes changes up until ctx ends. Each value of hangups asks for the file to be
// read again.
func (s *settings) run(ctx context.Context, hangups <-chan struct{}) {
	for {
		again, stop := s.pause()
		select {
		case <-s.news:
			s.mu.Lock()
			info := *s.info
			s.mu.Unlock()
			s.onRecord(ctx, info)
		case <-hangups:
			s.reload(ctx)
		case <-again:
			next := *s.waiting
			if err := s.take(ctx, next); err != nil {
				s.waiting = nil
				s.failed(ctx, next, err)
			}
		case <-ctx.Done():
			stop()
			return
		}
		stop()
	}
}

// pause is the time until what waits is tried again, for ever if nothing does.
func (s *settings) pause() (again <-chan time.Time, stop func()) {
	if s.waiting == nil {
		return nil, func() {}
	}
	timer := time.NewTimer(s.again)
	return timer.C, func() { timer.Stop() }
}

// latest is what the next attempt builds on.
func (s *settings) latest(reason string) attempt {
	if s.waiting != nil {
		next := *s.waiting
		next.reason = reason
		return next
	}
	return attempt{base: s.base, record: s.running.Record(), stored: s.kept.Accepted, reason: reason}
}

// onRecord looks at the record that the node has read.
func (s *settings) onRecord(ctx context.Context, info ha.ConfigInfo) {
	next := s.latest("cluster's record")
	stored, err := choose(s.kept.Accepted, info.Record, info.Err)
	if err == nil && stored.Version == next.record.Version() && stored.Nonce == next.record.Nonce() {
		s.publish("") // by now nothing is wrong with it
		return
	}
	if err == nil {
		next.stored = stored
		next.record, err = config.DecodeRecord(stored)
	}
	if err != nil {
		s.refuse(ctx, info.Record.Value, err)
		return
	}
	if err := s.take(ctx, next); err != nil {
		s.failed(ctx, next, err)
	}
}

// failed says that a configuration will never be in force.
func (s *settings) failed(ctx context.Context, next attempt, err error) {
	if next.stored.Version > s.kept.Accepted.Version {
		s.refuse(ctx, next.stored, err)
		return
	}
	for line := range strings.Lines(inKeys(err.Error())) {
		s.logger.ErrorContext(ctx, "configuration is not taken, everything stays as it was", "problem", strings.TrimSpace(line))
	}
}

// choose is the record that a node goes by which has accepted one and reads another.
func choose(accepted record.Config, read record.Rec[record.Config], readErr error) (record.Config, error) {
	got := read.Value
	switch {
	case readErr != nil:
		return accepted, readErr
	case got.Version == accepted.Version && got.Nonce == accepted.Nonce:
		return accepted, nil
	case got.Version == 0:
		return accepted, fmt.Errorf("the store has no record of the cluster's configuration any more, and this node goes by version %d; "+
			"write it again by pghad edit-config", accepted.Version)
	case got.Version <= accepted.Version:
		return accepted, fmt.Errorf("the store has version %d (%s) and this node goes by version %d (%s): the store was restored or is another one; "+
			"write the record again by pghad edit-config", got.Version, got.Nonce, accepted.Version, accepted.Nonce)
	}
	return got, nil
}

// began keeps what the node has started by.
func (s *settings) began(ctx context.Context, loaded keptRecord) {
	if loaded.Accepted.Version != s.kept.Accepted.Version || loaded.Accepted.Nonce != s.kept.Accepted.Nonce {
		s.keep(ctx, s.kept)
	}
}

// refuse says why the node does not go by a record, and remembers it.
func (s *settings) refuse(ctx context.Context, stored record.Config, why error) {
	text := inKeys(why.Error())
	for line := range strings.Lines(text) {
		s.logger.ErrorContext(ctx, "cluster's configuration is not taken; the node goes on with what it has",
			"version", stored.Version, "in_force", s.state.Version, "problem", strings.TrimSpace(line))
	}
	text = strings.ReplaceAll(text, "\n", "; ")
	if stored.Version > s.kept.Accepted.Version {
		text = ha.ConfigProblem(stored.Version, text)
		s.keep(ctx, keptRecord{Accepted: s.kept.Accepted, Refused: record.ConfigState{Version: stored.Version, Nonce: stored.Nonce, Problem: text}})
	}
	s.publish(text)
}

// reload reads the file again.
func (s *settings) reload(ctx context.Context) {
	if s.read == nil {
		return
	}
	defer s.service.reloading(ctx)()
	s.logger.InfoContext(ctx, "reading the configuration again")
	next := s.latest("file")
	base, err := s.read()
	if err == nil {
		next.base, next.refresh = base, true
		err = s.take(ctx, next)
	}
	if err != nil {
		next.stored = s.kept.Accepted
		s.failed(ctx, next, err)
	}
}

// take puts a configuration in force. An error says that it never will be, and that
// everything is as it was. One that cannot be put in force now is tried again.
func (s *settings) take(ctx context.Context, next attempt) error {
	wanted, err := next.base.WithRecord(next.record)
	if err != nil {
		return err //nolint:wrapcheck // says where and which key
	}
	mixed, live, pending, err := s.running.Effective(wanted, s.line.fixed(wanted.API)...)
	if err == nil {
		err = checkGuard(mixed)
	}
	if err != nil {
		return err //nolint:wrapcheck // says where and which key
	}
	if err := s.change(ctx, mixed, next.refresh); err != nil {
		if final(err) {
			return err
		}
		s.logger.WarnContext(ctx, "configuration cannot be changed now; trying again", "reason", next.reason, "error", err)
		s.waiting = &next
		return nil
	}
	s.settled(ctx, next, mixed, live, pending)
	return nil
}

// change puts mixed in force where something can fail; if it does, nothing has
// changed.
func (s *settings) change(ctx context.Context, mixed *config.Config, refresh bool) error {
	ctx, cancel := context.WithTimeout(ctx, settingsTimeout)
	defer cancel()
	if err := s.controller.Reconfigure(ctx, serverSettings(mixed)); err != nil {
		return err
	}
	if err := s.line.replace(mixed, s.running, refresh); err != nil {
		return errors.Join(err, s.controller.Reconfigure(ctx, serverSettings(s.running)))
	}
	return nil
}

func serverSettings(cfg *config.Config) pgctl.Settings {
	return pgctl.Settings{Parameters: cfg.Postgres.Parameters, HBA: cfg.Postgres.HBA}
}

// final reports whether an error of change will be the same next time.
func final(err error) bool {
	_, wrong := errors.AsType[*config.Error](err)
	return wrong || errors.Is(err, pg.ErrParameter)
}

// settled goes on by a configuration that is in force.
func (s *settings) settled(ctx context.Context, next attempt, mixed *config.Config, live, pending []string) {
	if s.level != nil {
		s.level(mixed.Log.Level)
	}
	s.waiting, s.base = nil, next.base
	if next.stored.Version != s.kept.Accepted.Version || next.stored.Nonce != s.kept.Accepted.Nonce || s.kept.Refused.Version != 0 {
		s.keep(ctx, keptRecord{Accepted: next.stored})
	}
	s.running = mixed
	s.state = record.ConfigState{Version: mixed.Record().Version(), Nonce: mixed.Record().Nonce(), Pending: pending}
	s.logger.InfoContext(ctx, "configuration is in force", "reason", next.reason, "version", s.state.Version, "changed", live)
	for _, key := range pending {
		s.logger.WarnContext(ctx, "configuration: needs a restart", "key", key)
	}
	s.publish("")
}

func (s *settings) keep(ctx context.Context, kept keptRecord) {
	s.kept = kept
	if err := s.keeper.save(kept); err != nil {
		s.logger.WarnContext(ctx, "cluster's configuration is not kept; after a restart without the store this node would not know it", "error", err)
	}
}

// publish tells the node what it goes by, and the others by its record.
func (s *settings) publish(problem string) {
	s.state.Problem = problem
	state := s.state
	state.Pending = slices.Clone(state.Pending)
	if err := s.node.Reconfigure(nodeSettings(s.running, &state)); err != nil {
		s.logger.Error("node", "error", err) // checked with the configuration
	}
}

// nodeSettings are what the node is told. The mode of a cluster that exists is that
// of its record; the one in a node's own configuration is for a new cluster.
func nodeSettings(cfg *config.Config, state *record.ConfigState) ha.Settings {
	told := ha.Settings{
		MaxLag:     uint64(cfg.MaximumLagOnFailover), //nolint:gosec // checked, above zero
		Relaxed:    !cfg.Strict,
		Priority:   cfg.Tags.FailoverPriority,
		NoFailover: !cfg.Tags.MayWin(),
		Exit:       ha.Exit(cfg.OnExit),
		Config:     state,
	}
	if cfg.Record().Sets("mode") {
		told.Mode = quorum.Mode(cfg.Mode)
	}
	return told
}

// fixed are the keys of the API that this line cannot change: all of them if there is
// none, and those by which it becomes encrypted or ceases to be.
func (l *line) fixed(wanted config.API) []string {
	switch {
	case l == nil:
		return []string{"api."}
	case l.credentials.Encrypted() != (wanted.TLS.CertFile != ""):
		return []string{"api.tls."}
	}
	return nil
}

// replace makes the line show and demand what cfg says, if that is another than
// before. refresh reads the files again also if it is not.
func (l *line) replace(cfg, before *config.Config, refresh bool) error {
	var err error
	switch {
	case l == nil:
	case !reflect.DeepEqual(cfg.API, before.API):
		err = l.credentials.Replace(credentialsConfig(cfg, l.host, l.logger))
	case refresh:
		err = l.credentials.Refresh()
	}
	if err != nil {
		return credentialsProblem(cfg, err)
	}
	return nil
}
