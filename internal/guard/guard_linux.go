package guard

import (
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// killPause is the pause between two rounds of SIGKILL.
const killPause = 50 * time.Millisecond

// Guard is one guard at work. Everything in it belongs to the goroutine of Run;
// the others only send to its channels.
type Guard struct {
	cfg      Config
	socket   *socket // nil without one
	agent    *agent  // nil while none is connected
	server   server
	watchdog *watchdog // nil while it is not armed
	alarm    *alarm

	writable bool
	deadline Instant // if writable
	passed   bool    // the deadline has, which is final
	stopping bool
	killAt   Instant // if dying: when what is left gets SIGKILL, again and again
	dying    bool
	killed   int     // processes in the last round
	lonely   Instant // when a guard without server and agent ends

	children chan os.Signal // SIGCHLD
	signals  chan os.Signal // the others
	quit     chan struct{}  // closed at the end
	log      *journal
}

// Run guards one server until no process of it is left, and returns the exit
// code of its postmaster: 128 and the number of the signal, if it has died by
// one. Without a server, because its agent has gone before it has started one,
// the code is zero.
//
// The calling goroutine must be locked to its thread (runtime.LockOSThread), and
// the process must do nothing else: Run is the parent of all that its server
// leaves behind, so it takes every child of this process for one of the server's.
func Run(cfg Config) (code int, err error) {
	cfg.defaults()
	if err := cfg.check(); err != nil {
		return 0, err
	}
	if err := becomeSubreaper(); err != nil {
		return 0, err
	}
	g := &Guard{cfg: cfg, children: make(chan os.Signal, 1), signals: make(chan os.Signal, 8), quit: make(chan struct{})}
	defer close(g.quit)
	g.log = newJournal(cfg.Log)
	defer g.log.close()
	if err := stayInMemory(); err != nil {
		g.say("it may be swapped out: " + err.Error())
	}
	if g.alarm, err = newAlarm(); err != nil {
		return 0, err
	}
	defer g.alarm.close()
	// SIGPIPE is taken so that a message to a closed pipe does not end the guard.
	signal.Notify(g.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGPIPE)
	signal.Notify(g.children, syscall.SIGCHLD)
	defer signal.Stop(g.signals)
	defer signal.Stop(g.children)
	if cfg.Socket != "" {
		if g.socket, err = listen(cfg.Socket, g.quit); err != nil {
			return 0, err
		}
		defer g.socket.close()
	}
	if cfg.Start != nil {
		if err := g.start(*cfg.Start, Now()); err != nil {
			return 0, err
		}
	}
	if cfg.Ready != nil {
		cfg.Ready()
	}
	g.lonely = Now().Add(cfg.Patience)
	g.loop()
	g.end()
	return g.server.code, nil
}

// loop waits for one thing after the other. What the time asks for comes first,
// whatever has woken the guard: a request that has waited while the guard was
// frozen must not move a deadline that has passed.
func (g *Guard) loop() {
	for {
		now := Now()
		g.look(now)
		if g.ended(now) {
			return
		}
		act := g.await()
		g.look(Now())
		act()
	}
}

// await blocks until there is something to do.
func (g *Guard) await() (act func()) {
	var connected <-chan *net.UnixConn
	if g.socket != nil {
		connected = g.socket.connected
	}
	var asked <-chan ask
	if g.agent != nil {
		asked = g.agent.asked
	}
	select {
	case <-g.alarm.fired:
		return func() {}
	case <-g.children:
		return g.reap
	case s := <-g.signals:
		return func() { g.signalled(s) }
	case conn := <-connected:
		return func() { g.meet(conn) }
	case a := <-asked:
		from := g.agent
		return func() {
			if g.agent == from { // it may have been cut off since
				g.answer(a)
			}
		}
	}
}

// ended reports whether there is nothing left to guard.
func (g *Guard) ended(now Instant) bool {
	switch g.state() {
	case StateGone:
		return true
	case StateIdle:
		return g.stopping || g.agent == nil && g.lonely.Reached(now)
	case StateRunning, StateStopping:
	}
	return false
}

func (g *Guard) state() State {
	switch {
	case g.server.gone:
		return StateGone
	case g.server.pid == 0:
		return StateIdle
	case g.stopping || g.server.exit != "":
		return StateStopping
	}
	return StateRunning
}

func (g *Guard) status(now Instant) *Status {
	status := &Status{State: g.state(), Pid: g.server.pid, Writable: g.writable, Exit: g.server.exit}
	if g.writable {
		status.Left = Duration(g.deadline.Left(now))
	}
	return status
}

// look does what the time asks for, and sets the alarm for the next time.
func (g *Guard) look(now Instant) {
	if g.writable && !g.passed && g.server.pid != 0 && g.deadline.Reached(now) {
		g.pass(now)
	}
	if g.dying && g.killAt.Reached(now) {
		g.kill()
		g.killAt = now.Add(killPause)
	}
	next, some := g.lonely, g.state() == StateIdle && g.agent == nil
	consider := func(at Instant) {
		if !some {
			next, some = at, true
		}
		next = next.earlier(at)
	}
	if g.writable && !g.passed {
		consider(g.deadline)
	}
	if g.dying {
		consider(g.killAt)
	}
	if g.watchdog != nil {
		consider(g.watchdog.feed(now, g.deadline))
	}
	g.alarm.set(next, some)
}

// pass is what happens at the deadline.
func (g *Guard) pass(now Instant) {
	g.passed = true
	g.stop(StopImmediate, now)
	g.say("the deadline has passed: PostgreSQL is stopped at once")
	if g.server.exit != "" {
		g.killAt = now // nobody is left who could tell the others
	}
	g.tell(Event{Kind: EventPassed})
}

// stop signals the postmaster. An immediate stop ends by itself, a fast one may
// be followed by an immediate one.
func (g *Guard) stop(mode StopMode, now Instant) {
	g.stopping = true
	if mode == StopFast {
		g.server.signal(syscall.SIGINT)
		return
	}
	g.server.signal(syscall.SIGQUIT)
	g.die(now)
}

// die gives what is left of the server KillAfter to end by itself.
func (g *Guard) die(now Instant) {
	if !g.dying {
		g.dying, g.killAt = true, now.Add(g.cfg.KillAfter)
	}
}

// kill kills what is left: the postmaster first, which can then start nothing
// more. Its children, and theirs, become children of the guard as their parents
// die, and are found in the next round.
func (g *Guard) kill() {
	g.server.signal(syscall.SIGKILL)
	left := children()
	if len(left) != g.killed {
		g.killed = len(left)
		g.say("processes are killed: " + strconv.Itoa(len(left)))
	}
	for _, pid := range left {
		_ = syscall.Kill(pid, syscall.SIGKILL) // a child: its number is not used anew before it is reaped
	}
}

// reap buries the dead, and sees whether the server is among them and whether
// anybody is left.
func (g *Guard) reap() {
	was := g.server
	g.server.reap()
	if g.server.exit != "" && was.exit == "" {
		g.say("PostgreSQL has ended: " + g.server.exit)
		g.tell(Event{Kind: EventExited, Exit: g.server.exit})
		g.die(Now())
	}
	if g.server.gone {
		g.say("no process of PostgreSQL is left")
	}
}

// signalled passes signals on to the server, as their senders mean them.
func (g *Guard) signalled(s os.Signal) {
	switch s {
	case syscall.SIGHUP:
		g.server.signal(syscall.SIGHUP)
	case syscall.SIGTERM, syscall.SIGINT:
		g.say("PostgreSQL is stopped: " + s.String())
		g.stop(StopFast, Now())
	case syscall.SIGQUIT:
		g.say("PostgreSQL is stopped at once: " + s.String())
		g.stop(StopImmediate, Now())
	}
}

// meet takes in an agent, if it may ask and is the only one.
func (g *Guard) meet(conn *net.UnixConn) {
	newcomer := newAgent(conn)
	uid, err := peerUID(conn)
	switch {
	case err != nil || uid != os.Geteuid() && uid != 0:
		g.say("a connection of user " + strconv.Itoa(uid) + " is refused")
		newcomer.send(message{Response: Response{Error: because(ErrDenied, "this guard serves user "+strconv.Itoa(os.Geteuid())+" and root only")}})
		newcomer.close()
		return
	case g.agent != nil:
		newcomer.send(message{Response: Response{Error: because(ErrBusy, "another agent is connected to this guard")}})
		newcomer.close()
		return
	}
	g.agent = newcomer
	g.send(message{Hello: &Hello{Version: Version, Pid: os.Getpid(), Status: *g.status(Now())}})
	go newcomer.listen() // its owner is the connection: it ends with it
}

// part ends the connection of the agent. Guard, server and deadline stay, but a
// guard without a server has nothing to wait for.
func (g *Guard) part() {
	g.agent.close()
	g.agent = nil
	if g.state() == StateIdle {
		g.stopping = true
	}
}

// answer answers one thing that the agent has said.
func (g *Guard) answer(a ask) {
	switch {
	case errors.Is(a.err, io.EOF):
		g.part()
		return
	case a.err != nil:
		g.say("the agent is cut off: " + a.err.Error())
		g.send(message{Response: Response{ID: a.request.ID, Error: because(ErrRequest, a.err.Error())}})
		if g.agent != nil {
			g.part()
		}
		return
	}
	now := Now()
	response := Response{ID: a.request.ID}
	if refused := g.obey(a.request, now); refused != nil {
		response.Error = refused
	} else {
		g.look(now) // a deadline may have been revoked
		response.Status = g.status(now)
	}
	g.send(message{Response: response})
}

func (g *Guard) obey(r Request, now Instant) *Error {
	switch {
	case r.Start != nil:
		return g.start(*r.Start, now)
	case r.Deadline != nil:
		return g.declare(*r.Deadline, now)
	case r.Stop != nil:
		if g.state() == StateIdle {
			return because(ErrState, "there is no server to stop")
		}
		g.say("PostgreSQL is stopped: " + string(r.Stop.Mode))
		g.stop(r.Stop.Mode, now)
	}
	return nil
}

// start starts the server, declared writable before if it is to be.
func (g *Guard) start(s Start, now Instant) *Error {
	if g.server.pid != 0 || g.stopping {
		return because(ErrState, "this guard has its server already, "+strconv.Itoa(g.server.pid)+": start another guard")
	}
	if s.Deadline != nil {
		if refused := g.arm(s.Deadline.until(now), now); refused != nil {
			return refused
		}
	}
	pid, err := spawn(s)
	if err != nil {
		g.disarm()
		return because(ErrStart, err.Error())
	}
	g.server.pid = pid
	g.say("PostgreSQL is started: " + strconv.Itoa(pid))
	return nil
}

// declare declares the server writable, or moves its deadline.
func (g *Guard) declare(d Deadline, now Instant) *Error {
	switch {
	case g.server.pid == 0 || g.server.exit != "":
		return because(ErrState, "there is no server to be writable")
	case g.passed:
		return because(ErrPassed, "the deadline has passed, and the server is being stopped")
	case d.Left <= 0:
		if g.writable {
			g.deadline = now
		}
		return nil
	}
	return g.arm(d.until(now), now)
}

// arm makes the server writable until a deadline.
func (g *Guard) arm(deadline, now Instant) *Error {
	if !g.writable {
		if deadline.Reached(now) {
			return because(ErrPassed, "the deadline has passed before the server was declared writable")
		}
		if g.cfg.Watchdog.Device != "" {
			w, err := openWatchdog(g.cfg.Watchdog, deadline.Left(now))
			if err != nil {
				return because(ErrWatchdog, err.Error())
			}
			g.watchdog = w
			g.say("the watchdog is armed")
		}
	}
	g.writable, g.deadline = true, deadline
	return nil
}

func (g *Guard) disarm() {
	g.writable = false
	if g.watchdog != nil {
		g.watchdog.close()
		g.watchdog = nil
		g.say("the watchdog is disarmed")
	}
}

// end leaves nothing behind. The socket goes before the connection: the agent may
// start the next guard when that has ended.
func (g *Guard) end() {
	g.disarm()
	if g.server.gone {
		g.tell(Event{Kind: EventGone})
	}
	if g.socket != nil {
		g.socket.close()
	}
	if g.agent != nil {
		g.agent.close()
	}
}

// tell reports an event.
func (g *Guard) tell(e Event) { g.send(message{Event: &e}) }

// send says something to the agent, if there is one that reads.
func (g *Guard) send(m message) {
	if g.agent != nil && !g.agent.send(m) {
		g.say("the agent is cut off: it does not read")
		g.part()
	}
}

// say writes a line to the log.
func (g *Guard) say(text string) { g.log.say(text) }
