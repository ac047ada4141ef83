package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/internal/testlog"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// recorder plays server and node: it takes settings, or refuses them.
type recorder struct {
	mu     sync.Mutex
	server []pgctl.Settings
	refuse error
}

type recordedServer struct{ *recorder }

func (r recordedServer) Reconfigure(_ context.Context, s pgctl.Settings) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil && s.Parameters["work_mem"] != "" {
		return r.refuse
	}
	r.server = append(r.server, s)
	return nil
}

type recordedNode struct {
	*recorder
	told chan ha.Settings
}

func (r recordedNode) Reconfigure(s ha.Settings) error {
	r.told <- s
	return nil
}

func (r *recorder) setRefusal(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = err
}

func (r *recorder) parameters() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.server) == 0 {
		return nil
	}
	return r.server[len(r.server)-1].Parameters
}

// played is a node of which only the settings are real.
type played struct {
	*settings
	*recorder
	told    chan ha.Settings
	hangups chan struct{}
	dir     string
	env     []string
	log     *testlog.Buffer
}

// play starts by the configuration that env makes, with the record that the store has.
func play(t *testing.T, store dcs.Store, dir string, env ...string) *played {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "data.pghad"), 0o700))
	p := &played{recorder: &recorder{}, told: make(chan ha.Settings, 100), hangups: make(chan struct{}), dir: dir, env: env, log: &testlog.Buffer{}}
	logger := slog.New(slog.NewTextHandler(p.log, nil))
	start := newStart(t.Context(), load(t, dir, env...), store, logger)
	p.settings = newSettings(logger, start)
	p.controller, p.node, p.again = recordedServer{p.recorder}, recordedNode{p.recorder, p.told}, time.Millisecond
	p.service = newService(logger, ha.Timing{}.Defaults())
	p.read = func() (*config.Config, error) { return load(t, dir, p.env...), nil }
	p.began(t.Context(), start.loaded)
	p.publish(start.problem)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { p.run(ctx, p.hangups) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return p
}

// next is what the node is told next.
func (p *played) next(t *testing.T) ha.Settings {
	t.Helper()
	select {
	case s := <-p.told:
		return s
	case <-time.After(patience):
		require.FailNow(t, "the node is told nothing", p.log.String())
	}
	return ha.Settings{}
}

func values(t *testing.T, text string) map[string]json.RawMessage {
	t.Helper()
	r, err := config.ParseRecord("test", []byte(text))
	require.NoError(t, err)
	return r.Values()
}

func storedAs(version uint64, values map[string]json.RawMessage) ha.ConfigInfo {
	return ha.ConfigInfo{Record: record.Rec[record.Config]{
		Value: record.Config{Format: 1, Version: version, Nonce: "n", Values: values}, Revision: dcs.Revision(version),
	}}
}

// emptyStore is one that holds a record, or cannot be reached.
type emptyStore struct {
	dcs.Store
	record *record.Config
	err    error
}

func (s emptyStore) Get(context.Context, string) (dcs.KV, error) {
	switch {
	case s.err != nil:
		return dcs.KV{}, s.err
	case s.record == nil:
		return dcs.KV{}, dcs.ErrNotFound
	}
	return dcs.KV{Value: record.Encode(s.record), Revision: 1}, nil
}

func TestRecordComesIntoForce(t *testing.T) {
	t.Parallel()
	p := play(t, emptyStore{}, t.TempDir())
	first := p.next(t)
	require.Empty(t, first.Mode, "the mode of the file is for a new cluster")
	require.Equal(t, &record.ConfigState{}, first.Config)
	require.EqualValues(t, 1<<20, first.MaxLag)

	p.tell(storedAs(3, values(t, "mode: async\nmaximum_lag_on_failover: 77\nstrict: false\ntiming: {ttl: 30s}\npostgres: {parameters: {work_mem: 8MB}}\n")))
	next := p.next(t)
	require.Equal(t, quorum.ModeAsync, next.Mode)
	require.EqualValues(t, 77, next.MaxLag)
	require.True(t, next.Relaxed)
	require.Equal(t, &record.ConfigState{Version: 3, Nonce: "n", Pending: []string{"timing.ttl"}}, next.Config)
	require.Equal(t, map[string]string{"work_mem": "8MB"}, p.parameters())
	require.Regexp(t, `level=WARN msg="configuration: needs a restart" key=timing.ttl`, p.log.String())

	p.tell(storedAs(4, values(t, "mode: quorum\n")))
	next = p.next(t)
	require.Equal(t, quorum.ModeQuorum, next.Mode)
	require.Equal(t, &record.ConfigState{Version: 4, Nonce: "n"}, next.Config, "nothing waits any more")
	require.Empty(t, p.parameters())

	p.tell(storedAs(5, map[string]json.RawMessage{}))
	require.Empty(t, p.next(t).Mode, "it stays as it is recorded")
}

// TestRecordThatIsNotTaken: error is never empty. The node goes on with what it has,
// also after a restart, and says why.
func TestRecordThatIsNotTaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := values(t, "maximum_lag_on_failover: 77\n")
	p := play(t, emptyStore{}, dir)
	p.next(t)
	p.tell(storedAs(3, good))
	require.EqualValues(t, 77, p.next(t).MaxLag)
	p.setRefusal(pg.ErrParameter)
	other := storedAs(3, good)
	other.Record.Value.Nonce = "other"
	for problem, info := range map[string]ha.ConfigInfo{
		"record x: record of a newer format":                          {Err: errors.New("record x: record of a newer format")},
		"^version 4: cluster's record, version 4: shiny: unknown key": storedAs(4, map[string]json.RawMessage{"shiny": json.RawMessage("1")}),
		"^version 5: .*margin 2s . 2 × renew 3s = 8s ≥ ttl 5s":        storedAs(5, values(t, "timing: {ttl: 5s}\n")),
		"^version 6: ":                        storedAs(6, values(t, "postgres: {parameters: {work_mem: much}}\n")),
		"the store has version 2 .* restored": storedAs(2, good),
		"the store has version 3 .other. and this node goes by version 3 .n.: ": other,
		"the store has no record of the cluster's configuration any more":       {},
	} {
		p.tell(info)
		next := p.next(t)
		require.EqualValues(t, 77, next.MaxLag, problem)
		require.EqualValues(t, 3, next.Config.Version, problem)
		require.Regexp(t, problem, next.Config.Problem)
		require.Contains(t, p.log.String(), "the node goes on with what it has")
	}
	p.tell(storedAs(3, good))
	require.Equal(t, &record.ConfigState{Version: 3, Nonce: "n"}, p.next(t).Config, "nothing is wrong any more")

	away := play(t, emptyStore{err: dcs.ErrUnavailable}, dir).next(t)
	require.EqualValues(t, 77, away.MaxLag, "kept, where the store is away at the start")
	require.Equal(t, &record.ConfigState{Version: 3, Nonce: "n"}, away.Config)

	restored := play(t, emptyStore{record: &record.Config{Format: 1, Version: 1, Nonce: "n"}}, dir).next(t)
	require.EqualValues(t, 77, restored.MaxLag)
	require.Contains(t, restored.Config.Problem, "the store has version 1")

	newer := storedAs(9, values(t, "maximum_lag_on_failover: 99\n")).Record.Value
	require.EqualValues(t, 99, play(t, emptyStore{record: &newer}, dir).next(t).MaxLag)
	require.EqualValues(t, 99, play(t, emptyStore{err: dcs.ErrUnavailable}, dir).next(t).MaxLag, "what it has started by is kept too")
}

// TestRecordThatWasRefused: it is not tried again by a start, and a broken file of
// what was kept keeps no node from starting.
func TestRecordThatWasRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := storedAs(4, values(t, "maximum_lag_on_failover: 88\npostgres: {parameters: {work_mem: much}}\n"))
	p := play(t, emptyStore{}, dir)
	p.setRefusal(pg.ErrParameter)
	p.next(t)
	p.tell(bad)
	require.Regexp(t, "^version 4: ", p.next(t).Config.Problem)
	again := play(t, emptyStore{record: &bad.Record.Value}, dir).next(t)
	require.EqualValues(t, 1<<20, again.MaxLag)
	require.Regexp(t, "^version 4: ", again.Config.Problem)

	path := filepath.Join(dir, "data.pghad", "cluster-config.json")
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	broken := play(t, emptyStore{}, dir)
	require.Zero(t, broken.next(t).Config.Version)
	require.Contains(t, broken.log.String(), "cluster's configuration that was kept cannot be read")
}

// TestChangeThatMustWait is tried again until it is in force; what is asked for
// meanwhile is not forgotten.
func TestChangeThatMustWait(t *testing.T) {
	t.Parallel()
	p := play(t, emptyStore{}, t.TempDir())
	p.next(t)
	p.setRefusal(errors.New("the server is being copied"))
	p.tell(storedAs(3, values(t, "postgres: {parameters: {work_mem: 8MB}}\n")))
	require.Eventually(t, func() bool { return strings.Count(p.log.String(), "trying again") > 2 }, patience, time.Millisecond)
	p.env = []string{"PGHAD_TAGS_FAILOVER_PRIORITY=5"}
	p.hangups <- struct{}{}
	p.hangups <- struct{}{} // the first one has been looked at
	p.setRefusal(nil)
	next := p.next(t)
	require.EqualValues(t, 3, next.Config.Version)
	require.Equal(t, 5, next.Priority)
	require.Equal(t, map[string]string{"work_mem": "8MB"}, p.parameters())
}

// TestReload: what can change does, what cannot is named, and a broken file changes
// nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	p := play(t, emptyStore{}, t.TempDir())
	p.next(t)
	levels := make(chan string, 10)
	p.level = func(text string) { levels <- text }
	p.env = []string{
		"PGHAD_LOG_LEVEL=debug", "PGHAD_TAGS_NOFAILOVER=true", "PGHAD_ON_EXIT=stop", "PGHAD_POSTGRES_PORT=5999", "PGHAD_TIMING_TTL=20s",
		"PGHAD_POSTGRES_PARAMETERS={jit: off}", "PGHAD_API_USERNAME=u", "PGHAD_API_PASSWORD=new secret",
	}
	p.hangups <- struct{}{}
	next := p.next(t)
	require.Equal(t, "debug", <-levels)
	require.True(t, next.NoFailover)
	require.Equal(t, ha.ExitStop, next.Exit)
	require.Equal(t, []string{"postgres.port", "api.username", "api.password", "timing.ttl"}, next.Config.Pending, "there is no line that could change")
	require.Equal(t, map[string]string{"jit": "off"}, p.parameters())
	log := p.log.String()
	require.Equal(t, 4, strings.Count(log, "needs a restart"))
	require.NotContains(t, log, "new secret")

	for _, problem := range []struct {
		read func() (*config.Config, error)
		want string
	}{
		{func() (*config.Config, error) { return config.Load(config.Options{File: "/nowhere"}) }, "/nowhere: no such file"},
		{func() (*config.Config, error) {
			return load(t, p.dir, "PGHAD_ON_EXIT=keep", "PGHAD_GUARD_USE=always", "PGHAD_GUARD_PROGRAM=/x"), nil
		}, ""},
	} {
		p.read = problem.read
		count := strings.Count(p.log.String(), "configuration is ")
		p.hangups <- struct{}{}
		require.Eventually(t, func() bool { return strings.Count(p.log.String(), "configuration is ") > count }, patience, time.Millisecond)
		require.Contains(t, p.log.String(), problem.want)
	}
}

// TestServiceManagerIsToldOfAReload is not parallel: it sets variables of the
// environment.
func TestServiceManagerIsToldOfAReload(t *testing.T) {
	news := manager(t, "")
	p := play(t, emptyStore{}, t.TempDir())
	p.next(t)
	p.hangups <- struct{}{}
	p.next(t)
	require.Empty(t, news, "it is not ready yet")
	require.True(t, p.service.becomesReady())
	p.hangups <- struct{}{}
	p.next(t)
	require.Regexp(t, `^RELOADING=1\nMONOTONIC_USEC=\d+$`, <-news)
	require.Equal(t, "READY=1", <-news)
}

// TestLineTakesNewCredentials: user, password and files change; whether the line is
// encrypted does not.
func TestLineTakesNewCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := load(t, dir, "PGHAD_API_LISTEN=127.0.0.1:0", "PGHAD_API_USERNAME=u", "PGHAD_API_PASSWORD=one")
	l, err := openLine(t.Context(), before, "127.0.0.1", quiet)
	require.NoError(t, err)
	defer l.close()
	require.Empty(t, l.fixed(before.API))
	require.Equal(t, []string{"api.tls."}, l.fixed(config.API{TLS: config.APITLS{CertFile: "/x"}}))
	require.Equal(t, []string{"api."}, (*line)(nil).fixed(before.API))
	require.NoError(t, (*line)(nil).replace(before, before, true))

	require.NoError(t, l.replace(before, before, true))
	after := load(t, dir, "PGHAD_API_LISTEN=127.0.0.1:0")
	require.NoError(t, l.replace(after, before, false))
	require.False(t, l.credentials.Protected())
	require.NoError(t, l.replace(before, after, false))
	require.True(t, l.credentials.Protected())

	file := filepath.Join(dir, "password")
	require.NoError(t, os.WriteFile(file, []byte("two\n"), 0o600))
	withFile := load(t, dir, "PGHAD_API_LISTEN=127.0.0.1:0", "PGHAD_API_USERNAME=u", "PGHAD_API_PASSWORD_FILE="+file)
	require.NoError(t, os.WriteFile(file, []byte("two\nlines\n"), 0o600))
	require.ErrorContains(t, l.replace(withFile, before, false), "PGHAD_API_PASSWORD_FILE: api.password_file: "+file+" does not hold exactly one line")
	require.True(t, l.credentials.Protected(), "nothing has changed")
}
