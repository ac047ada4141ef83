// Package guard keeps the promise of a warrant when nobody else can: its Run is
// the program pghad-guard, the parent of one PostgreSQL server, which stops the
// server when its deadline passes, whatever has become of the agent that was to
// move the deadline on. Client is the agent's side.
//
// # Model
//
// One guard is the parent of one server, from its start until no process of it
// is left; then the guard ends too. It is a subreaper, so every process that the
// server has started and that has lost its parent becomes a child of the guard.
// "No process is left" is therefore not a search but an answer of the kernel:
// the guard has no child any more.
//
// A server runs writable with a deadline, or it does not run writable: it is
// declared writable, with the first deadline, before it becomes so, and a
// standby has none. When the deadline passes, the postmaster gets SIGQUIT (an
// immediate stop), and what is left of the server after Config.KillAfter gets
// SIGKILL. A deadline that has passed is final.
//
// # Time
//
// A deadline is an Instant: a reading of the clock that counts while the machine
// is suspended (CLOCK_BOOTTIME), and one of the wall clock. It has passed when
// either clock has reached it: what has elapsed is the larger of both. The agent
// sends how much was left and when that was so, on both clocks, so a request
// that was held up (an agent frozen between counting and sending) buys nothing.
// Agent and guard must share both clocks: one machine, one time namespace.
//
// # What outlives what
//
// The agent may die, be frozen, be restarted: guard, server and deadline stay,
// and the next agent finds them. One agent is served at a time. When the guard
// dies, the kernel sends SIGQUIT to the postmaster, and the agent sees the end of
// its connection. That signal is tied to the thread that has started the
// postmaster, which is why Run wants to be called on a thread of its own.
//
// # Protocol
//
// Lines of JSON over a unix socket, at most 1 MiB each. The directory of the
// socket belongs to the guard's user and is open to nobody else; so is the
// socket; and the kernel says who connects: the guard's user, or root.
//
// The guard begins: with a Hello that names Version, or with an error and the
// end of the connection. The agent sends a Request and gets a Response of the
// same id. In between come an Event each time that something happens. A line
// that is no request, or has a field that this version does not know, is
// answered by an error and the end of the connection.
package guard
