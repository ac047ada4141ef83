package pgtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pghad/pghad/pg"
)

// question is what a recipe can ask. Words in capitals stand for names.
type question struct {
	form   string
	answer func(p *player, args []string) string
}

func (q question) words() string { return q.form }

// none is how recipes write that there is nothing.
const none = "none"

// questions are all that can be asked.
var questions = []question{
	{"commit ROW", func(p *player, a []string) string { return string(p.servers.Outcome(a[0])) }},
	{"rows of NODE", func(p *player, a []string) string {
		rows, err := p.servers.Rows(a[0])
		if err != nil {
			return outcomeOf(err)
		}
		return list(rows)
	}},
	{"clients of NODE", func(p *player, a []string) string {
		if err := p.servers.Admits(a[0]); err != nil {
			return outcomeOf(err)
		}
		return "admitted"
	}},
	{"process of NODE", of(func(s pg.Status) string { return string(s.Process) })},
	{"health of NODE", of(func(s pg.Status) string { return string(s.Health) })},
	{"role of NODE", of(func(s pg.Status) string { return string(s.Role) })},
	{"gate of NODE", of(func(s pg.Status) string {
		if s.GateOpen {
			return "open"
		}
		return "closed"
	})},
	{"timeline of NODE", of(func(s pg.Status) string { return fmt.Sprint(s.Timeline) })},
	{"startup of NODE", of(func(s pg.Status) string { return s.Startup })},
	{"replay of NODE", of(func(s pg.Status) string {
		if s.ReplayPaused {
			return "paused"
		}
		return "goes on"
	})},
	{"source of NODE", (*player).source},
	{"receiver of NODE", (*player).receiver},
	{"setting of NODE", (*player).setting},
	{"sender NAME on NODE", (*player).sender},
	{"priority of NAME on NODE", (*player).priority},
	{"connection of NAME on NODE", (*player).connection},
	{"senders NAME on NODE", func(p *player, a []string) string { return strconv.Itoa(len(p.sendersOf(a[0], a[1]))) }},
	{"history T on NODE", (*player).history},
	{"slot SLOT on NODE", func(p *player, a []string) string {
		state, err := p.servers.Slot(a[1], a[0])
		if err != nil {
			return outcomeOf(err)
		}
		return state
	}},
	{"copies of NODE", func(p *player, a []string) string {
		n, err := p.servers.Copies(a[0])
		if err != nil {
			return outcomeOf(err)
		}
		return strconv.Itoa(n)
	}},
	{"disk of NODE", (*player).disk},
	{"checkpoint of NODE", (*player).checkpoint},
	{"POINT of NODE against POINT of NODE", func(p *player, a []string) string {
		return p.compare(a[0]+" of "+a[1], a[2]+" of "+a[3])
	}},
	{"POINT of NODE against MARK", func(p *player, a []string) string { return p.compare(a[0]+" of "+a[1], a[2]) }},
}

// list prints names, or that there are none.
func list(names []string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, " ")
}

// of asks the status of a node.
func of(say func(pg.Status) string) func(*player, []string) string {
	return func(p *player, a []string) string { return say(p.status(a[0])) }
}

func (p *player) status(node string) pg.Status {
	status, err := p.servers.Control(node).Status(p.ctx)
	if err != nil {
		status.Health = pg.HealthUnknown
	}
	return status
}

// source is the node that a receiver streams from.
func (p *player) source(a []string) string {
	status := p.status(a[0])
	if !status.Streams() {
		return none
	}
	for _, other := range p.recipe.names {
		if up := p.servers.Route(a[0], other); up.Host == status.Receiver.Host && up.Port == status.Receiver.Port {
			return other
		}
	}
	return "somebody else"
}

// receiver is what a receiver does; one that is not shown connects.
func (p *player) receiver(a []string) string {
	n, err := p.servers.Receivers(a[0])
	if err != nil {
		return outcomeOf(err)
	}
	if n == 0 {
		return none
	}
	if r := p.status(a[0]).Receiver; r != nil {
		return r.State
	}
	return "hidden"
}

func (p *player) setting(a []string) string {
	view, err := p.servers.Control(a[0]).SyncView(p.ctx)
	if err != nil {
		return outcomeOf(err)
	}
	if view.Setting.Empty() {
		return none
	}
	return fmt.Sprintf("%s %d (%s)", view.Setting.Method, view.Setting.K, strings.Join(view.Setting.Names, ", "))
}

func (p *player) sendersOf(name, node string) []pg.Walsender {
	var found []pg.Walsender
	for _, s := range p.status(node).Senders {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

func (p *player) sender(a []string) string {
	senders := p.sendersOf(a[0], a[1])
	if len(senders) == 0 {
		return none
	}
	return senders[0].State + " " + senders[0].Sync
}

func (p *player) priority(a []string) string {
	senders := p.sendersOf(a[0], a[1])
	if len(senders) == 0 {
		return none
	}
	return strconv.Itoa(senders[0].Priority)
}

// connection numbers the walsenders of a name on a node as the recipe sees them.
func (p *player) connection(a []string) string {
	senders := p.sendersOf(a[0], a[1])
	if len(senders) == 0 {
		return none
	}
	key := a[0] + " on " + a[1]
	if !slices.Contains(p.pids[key], senders[0].PID) {
		p.pids[key] = append(p.pids[key], senders[0].PID)
	}
	return strconv.Itoa(1 + slices.Index(p.pids[key], senders[0].PID))
}

func (p *player) history(a []string) string {
	t, err := pg.ParseTimeline(a[0])
	if err != nil {
		return err.Error()
	}
	there, err := p.servers.HasHistory(a[1], t)
	switch {
	case err != nil:
		return outcomeOf(err)
	case there:
		return "present"
	}
	return "absent"
}

// disk is what a start would find.
func (p *player) disk(a []string) string {
	found, err := p.servers.Control(a[0]).OnDisk(p.ctx)
	if err != nil {
		return outcomeOf(err)
	}
	words := "unclean"
	if found.Clean {
		words = "clean"
	}
	if found.Standby {
		return words + " standby"
	}
	return words + " primary"
}

// checkpoint is the timeline in the control file.
func (p *player) checkpoint(a []string) string {
	up := p.servers.Route(a[0], a[0])
	remote, err := p.servers.Control(a[0]).Identify(p.ctx, up)
	if err != nil {
		return outcomeOf(err)
	}
	return fmt.Sprint(remote.CheckpointTimeline)
}

// compare says where one position lies, seen from another.
func (p *player) compare(a, b string) string {
	x, err := p.point(a)
	if err == nil {
		var y pg.LSN
		if y, err = p.point(b); err == nil {
			switch {
			case x < y:
				return "before"
			case x > y:
				return "after"
			}
			return "at"
		}
	}
	return "unknown"
}

var errNoPoint = errors.New("there is no such position now")

// point is a position: a remembered one, or "flushed", "received", "replayed" or
// "held" of a node, as its status says it.
func (p *player) point(name string) (pg.LSN, error) {
	if lsn, ok := p.marks[name]; ok {
		return lsn, nil
	}
	what, node, ok := strings.Cut(name, " of ")
	if !ok {
		return 0, errNoPoint
	}
	s := p.status(node)
	if s.Health != pg.HealthAlive {
		return 0, errNoPoint
	}
	standby := s.Role == pg.RoleStandby
	switch {
	case what == "flushed" && !standby:
		return s.Flushed, nil
	case what == "received" && standby && s.ReceivedValid:
		return s.Received, nil
	case what == "replayed" && standby:
		return s.Replayed, nil
	case what == "held":
		return s.Held().LSN, nil
	}
	return 0, errNoPoint
}

// remember keeps a position under a name.
func (p *player) remember(_ context.Context, point, name string) error {
	lsn, err := p.point(point)
	if err == nil {
		p.marks[name] = lsn
	}
	return err
}
