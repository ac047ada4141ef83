package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/workload"
)

const (
	redraw     = 200 * time.Millisecond // of the live picture
	plainEvery = time.Second            // of lines where there is no terminal
	eventLines = 8
)

// live is a demo that a person watches.
type live struct {
	*stage
	out      io.Writer
	terminal bool
	killed   string // the node that r starts again
	first    string // who led in the beginning
	leader   string // last seen
	blind    bool   // the store is killed
	seen     clusterview.View
	moving   chan error // the end of a switchover; nil: none runs
	starting chan error // the end of the store's start; nil: it is not being started
	gaps     int        // told
	printed  int        // events already printed where there is no terminal
	before   workload.Counts
	at       time.Time
}

// show plays no script: it shows the cluster until q or the end of ctx, and then
// checks what was promised.
func show(ctx context.Context, o Options) (Result, error) {
	result := Result{Scenario: "live", Verdict: workload.VerdictError}
	starting, cancel := context.WithTimeoutCause(ctx, setUpTime, errors.New("the cluster was not whole in time"))
	defer cancel()
	s, err := setUp(starting, o)
	if err != nil {
		return result, err
	}
	l := &live{stage: s, out: o.Stdout, at: time.Now()}
	if err = l.begin(starting); err == nil {
		err = l.watch(ctx, o)
	}
	s.events = nil // the screen is no longer ours
	if err == nil {
		// Also after an interrupt: what was promised is checked.
		result, err = l.end(context.WithoutCancel(ctx), result.Scenario)
	} else if ctx.Err() == nil {
		s.logs()
	}
	keep := o.Keep && !result.OK()
	if keep {
		s.sayf("everything is kept in %s", s.dir)
	}
	if err = errors.Join(err, s.tearDown(keep)); err != nil {
		return result, err
	}
	return result, result.write(o.Stdout, false)
}

func (l *live) begin(ctx context.Context) error {
	view, err := l.awaitCluster(ctx)
	if err != nil {
		return err
	}
	l.first, l.leader = view.Leader, view.Leader
	return l.startClients(ctx)
}

// end stops the clients and checks what they were promised.
func (l *live) end(ctx context.Context, scenario string) (Result, error) {
	p := &play{stage: l.stage, victim: l.first}
	now, cancel := context.WithTimeout(ctx, time.Second)
	_, err := l.awaitWhole(now)
	cancel()
	p.rejoined = err == nil
	if err := l.stopClients(); err != nil {
		return Result{Scenario: scenario, Verdict: workload.VerdictError}, err
	}
	return p.judge(ctx, scenario)
}

// watch shows the picture and obeys keys.
func (l *live) watch(ctx context.Context, o Options) error {
	keys := make(chan byte)
	every := plainEvery
	file, isFile := o.Stdout.(*os.File)
	if isFile && term.IsTerminal(int(file.Fd())) && term.IsTerminal(int(o.Stdin.Fd())) {
		restore, err := openTerminal(o.Stdin, file)
		if err != nil {
			return err
		}
		defer restore()
		l.terminal, every = true, redraw
		go readKeys(ctx, o.Stdin, keys) // ends with the process: a terminal cannot be made to give up a read
	}
	l.events = &events{most: eventLines}
	l.sayf("%s leads", l.leader)
	tick := time.NewTicker(every)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(ctx)
	defer l.giveUp(cancel)
	for {
		l.draw(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		case err := <-l.moving:
			l.tellMove(err)
		case err := <-l.starting:
			l.tellStart(err)
		case key := <-keys:
			if key == 'q' || key == interrupt {
				return nil
			}
			l.obey(ctx, key)
		}
	}
}

// interrupt is what Ctrl-C sends in raw mode.
const interrupt = 3

// openTerminal makes keys come one by one and unseen, on a screen of its own.
func openTerminal(in, out *os.File) (restore func(), err error) {
	fd := int(in.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	_, _ = io.WriteString(out, "\x1b[?1049h\x1b[?25l") // other screen, no cursor
	return func() {
		_, _ = io.WriteString(out, "\x1b[?25h\x1b[?1049l")
		_ = term.Restore(fd, before) // nothing else can be done
	}, nil
}

func readKeys(ctx context.Context, in io.Reader, keys chan<- byte) {
	key := make([]byte, 1)
	for {
		if n, err := in.Read(key); err != nil || n == 0 {
			return
		}
		select {
		case keys <- key[0]:
		case <-ctx.Done():
			return
		}
	}
}

// obey does what a key asks for.
func (l *live) obey(ctx context.Context, key byte) {
	var err error
	switch key {
	case 'p':
		if err = l.cluster.KillPostmaster(l.leader); err == nil {
			l.sayf("the postmaster of %s is killed", l.leader)
		}
	case 'n':
		err = l.down("everything", l.cluster.KillNode)
	case 'a':
		err = l.down("the agent", l.cluster.KillAgent)
	case 'r':
		if l.killed == "" {
			l.sayf("no node is down")
			return
		}
		if err = l.cluster.StartNode(l.killed); err == nil {
			l.sayf("%s is started again", l.killed)
			l.killed = ""
		}
	case 's':
		l.move(ctx)
	case 'd':
		err = l.switchDCS(ctx)
	}
	if err != nil {
		l.sayf("%v", err)
	}
}

// down kills something of the leader that r starts again.
func (l *live) down(what string, kill func(string) error) error {
	if l.killed != "" {
		l.sayf("%s is down already; r starts it again", l.killed)
		return nil
	}
	if err := kill(l.leader); err != nil {
		return err
	}
	l.killed = l.leader
	l.sayf("%s of %s is killed", what, l.leader)
	return nil
}

// switchDCS kills the servers of the store, or starts them again, and does not
// wait for them to serve.
func (l *live) switchDCS(ctx context.Context) error {
	switch {
	case l.starting != nil:
		l.sayf("%s is being started", l.servers.title())
		return nil
	case l.blind:
		starting := make(chan error, 1)
		l.starting = starting
		go func() { starting <- l.servers.start(ctx) }() // giveUp or the end of the start waits for it
		l.sayf("%s is started again", l.servers.title())
		return nil
	}
	if err := l.servers.kill(); err != nil {
		return err
	}
	l.blind = true
	l.sayf("%s is killed; d starts it again", l.servers.title())
	return nil
}

func (l *live) tellStart(err error) {
	l.starting = nil
	if err != nil {
		l.sayf("%v", err)
		return
	}
	l.blind = false
	l.sayf("%s serves again", l.servers.title())
}

// move asks for a switchover, and does not wait for it.
func (l *live) move(ctx context.Context) {
	if l.moving != nil {
		l.sayf("a switchover is under way")
		return
	}
	l.sayf("pghad switchover")
	moving := make(chan error, 1)
	l.moving = moving
	go func() { // giveUp or the end of the switchover waits for it
		_, err := l.cluster.Command(ctx, "switchover", "--yes")
		moving <- err
	}()
}

func (l *live) tellMove(err error) {
	l.moving = nil
	if err != nil {
		l.sayf("%v", err)
		return
	}
	l.sayf("the switchover is done")
}

// giveUp waits for what is still under way when watching ends.
func (l *live) giveUp(cancel context.CancelFunc) {
	cancel()
	if l.moving != nil {
		l.tellMove(<-l.moving)
	}
	if l.starting != nil {
		l.tellStart(<-l.starting)
	}
}

// draw looks at everything once and shows it.
func (l *live) draw(ctx context.Context) {
	p := l.look(ctx)
	lines := p.lines()
	if l.terminal {
		lines = append(lines, "", keysLine)
		// Home, each line cleared behind its text, the rest of the screen cleared.
		_, _ = io.WriteString(l.out, "\x1b[H"+strings.Join(lines, "\x1b[K\r\n")+"\x1b[K\x1b[J")
		return
	}
	kept, total := l.events.last()
	for _, line := range kept[max(0, len(kept)-(total-l.printed)):] {
		_, _ = fmt.Fprintln(l.out, line)
	}
	l.printed = total
	_, _ = fmt.Fprintf(l.out, "%6.2fs  leader %s, %s, %.0f a second, outage %s now, %s the longest\n", time.Since(l.began).Seconds(),
		l.leader, p.Counts, p.Rate, milliseconds(p.Open), milliseconds(p.Longest))
}

// look gathers a picture, and notes what has changed since the last.
func (l *live) look(ctx context.Context) picture {
	view, stale := l.records(ctx)
	if view.Leader != "" && view.Term > 0 && view.Leader != l.leader {
		l.sayf("%s leads, on timeline %d", view.Leader, view.Timeline)
		l.leader = view.Leader
	}
	gaps := l.writers.Gaps().All()
	for _, gap := range gaps[l.gaps:] {
		l.sayf("writes stood still for %s", milliseconds(gap.Length()))
	}
	l.gaps = len(gaps)
	now, counts := time.Now(), l.ledger.Counts()
	p := picture{
		View: view, Stale: stale, Looks: l.looker.Look(ctx), Down: make(map[string]bool), Counts: counts,
		Open: l.writers.Gaps().Open(l.ledger.Now()), Longest: l.writers.Gaps().Longest(0).Length(),
	}
	if passed := now.Sub(l.at).Seconds(); passed > 0 {
		p.Rate = float64(counts.Acknowledged-l.before.Acknowledged) / passed
	}
	l.at, l.before = now, counts
	for _, name := range l.cluster.Names() {
		p.Down[name] = !l.cluster.AgentRuns(name)
	}
	p.Events, _ = l.events.last()
	return p
}

// records are what the store says, or what it said last while it does not answer.
func (l *live) records(ctx context.Context) (view clusterview.View, stale bool) {
	if l.blind {
		return l.seen, true // asking would take a second
	}
	view, err := l.view(ctx)
	if err != nil {
		return l.seen, true
	}
	l.seen = view
	return view, false
}
