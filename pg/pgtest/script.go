package pgtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/pghad/pghad/pg"
)

// scriptSteps is how much happens in a random script, at most.
const scriptSteps = 12

// script draws a random recipe: what somebody might do to three servers, one thing
// after another. What is drawn makes sense on the model as it stands by then, and
// does not keep the script waiting for ever; nothing is expected of it.
//
// No two servers are promoted to one number: what such twins do depends on how
// long, in bytes, each of their records is, which the model does not claim to know.
type script struct {
	rand   *rand.Rand
	names  []string
	lines  []string
	rows   int
	frozen []string // "PROCESS of NODE"
	begun  bool     // an operation goes on
}

// drawScript makes the script of a seed. One seed makes one script.
func drawScript(seed uint64) (*recipe, error) {
	s := &script{
		rand:  rand.New(rand.NewPCG(seed, 0)), //nolint:gosec // reproducible on purpose
		names: []string{"n1", "n2", "n3"},
	}
	s.lines = []string{fmt.Sprintf("# Random script %d.", seed), "servers " + strings.Join(s.names, " ")}
	for range scriptSteps {
		if err := s.add(); err != nil {
			return nil, err
		}
	}
	s.close()
	return parseRecipe(fmt.Sprintf("script-%d", seed), s.text())
}

func (s *script) text() string { return strings.Join(s.lines, "\n") + "\n" }

// play plays what there is, and hands over the servers.
func (s *script) play(more ...string) (*player, *modelServers, error) {
	r, err := parseRecipe("script", strings.Join(append(slices.Clip(s.lines), more...), "\n"))
	if err != nil {
		return nil, nil, err
	}
	m, err := newModelServers(r.names, nil)
	if err != nil {
		return nil, nil, err
	}
	p := &player{recipe: r, servers: m}
	// An operation may go on at the end of what there is.
	if err := p.run(context.Background(), nil); err != nil && p.pending == nil {
		m.close()
		return nil, nil, fmt.Errorf("%w\n%s", err, s.text())
	}
	return p, m, nil
}

// add draws a step that ends, and sometimes waits and looks after it.
func (s *script) add() error {
	_, m, err := s.play()
	if err != nil {
		return err
	}
	choices := slices.DeleteFunc(s.choices(m), func(a string) bool {
		process, freezes := strings.CutPrefix(a, "freeze ")
		return freezes && slices.Contains(s.frozen, process)
	})
	m.close()
	for len(choices) > 0 {
		i := s.rand.IntN(len(choices))
		line := choices[i] + " " + outcomeMark + " " + anything
		p, m, err := s.play(line)
		if err != nil {
			return err
		}
		outcome := p.seen[len(p.seen)-1]
		m.close()
		if outcome == outcomeNoAnswer || outcome != outcomeOK && isFault(choices[i]) {
			choices = slices.Delete(choices, i, i+1)
			continue
		}
		s.take(choices[i], line)
		return nil
	}
	return nil
}

// isFault reports whether an action has no outcome of its own to be compared.
func isFault(action string) bool {
	word, _, _ := strings.Cut(action, " ")
	return slices.Contains([]string{"freeze", "thaw", "kill", "pause", "resume"}, word)
}

// take makes a line part of the script.
func (s *script) take(action, line string) {
	s.lines = append(s.lines, line)
	word, object, _ := strings.Cut(action, " ")
	switch word {
	case "commit":
		s.rows++
	case "kill": // what its controller says before it has noticed tells nothing
		s.lines = append(s.lines, "see process of "+object[strings.LastIndex(object, " ")+1:]+" = crashed")
	case "freeze":
		s.frozen = append(s.frozen, object)
	case "thaw":
		s.frozen = slices.DeleteFunc(s.frozen, func(f string) bool { return f == object })
	case "begin":
		s.begun = true
	case "end":
		s.begun = false
	}
	if s.rand.IntN(2) == 0 {
		return
	}
	s.lines = append(s.lines, "wait 150ms")
	node := s.names[s.rand.IntN(len(s.names))]
	s.lines = append(s.lines, "note rows of "+node, "note role of "+node)
}

// close ends what was begun and what is broken, waits, and looks at everything.
func (s *script) close() {
	for _, process := range s.frozen {
		s.lines = append(s.lines, "thaw "+process+" -> any")
	}
	s.lines = append(s.lines, "heal")
	if s.begun {
		s.lines = append(s.lines, "end -> any")
	}
	s.lines = append(s.lines, "wait 2s")
	for i := range s.rows {
		s.lines = append(s.lines, "note commit "+row(i))
	}
	for _, n := range s.names {
		s.lines = append(s.lines, "note process of "+n, "note role of "+n, "note timeline of "+n, "note rows of "+n)
	}
}

func row(i int) string { return fmt.Sprintf("w%d", i+1) }

// choices are all actions that make sense now; some of them more than once, to be
// drawn more often.
func (s *script) choices(m *modelServers) []string {
	var all []string
	for _, n := range s.names {
		truth := m.cluster.Server(n)
		switch {
		case truth.Process == pg.ProcessStopped, truth.Process == pg.ProcessCrashed:
			all = append(all, s.startings(n)...)
		case truth.Role == pg.RolePrimary:
			all = append(all, s.primarys(m, n)...)
			all = append(all, endings(n)...)
		case truth.Role == pg.RoleStandby:
			all = append(all, s.standbys(m, n)...)
			all = append(all, endings(n)...)
		}
	}
	all = append(all, s.network(m)...)
	for _, process := range s.frozen {
		all = append(all, "thaw "+process, "thaw "+process, "thaw "+process)
	}
	if s.begun {
		all = slices.DeleteFunc(all, func(a string) bool { return strings.HasPrefix(a, "begin ") })
		all = append(all, "end", "end", "end", "end")
	}
	return all
}

// others are the names but for one.
func (s *script) others(n string) []string {
	return slices.DeleteFunc(slices.Clone(s.names), func(o string) bool { return o == n })
}

// startings is what can be done to a server that does not run.
func (s *script) startings(n string) []string {
	o := s.others(n)
	all := []string{"start " + n + " alone", fmt.Sprintf("start %s as primary with ANY 1 (%s, %s)", n, o[0], o[1]), "start " + n + " as primary"}
	for _, of := range o {
		for _, what := range []string{"start", "start", "start", "rewind", "clone", "begin start", "begin clone"} {
			all = append(all, what+" "+n+" from "+of)
		}
	}
	return all
}

// endings is how a server ends.
func endings(n string) []string {
	return []string{"stop " + n + " fast", "stop " + n + " immediate", "kill postmaster of " + n, "begin stop " + n + " fast"}
}

// primarys is what can be done to a primary.
func (s *script) primarys(m *modelServers, n string) []string {
	o := s.others(n)
	commit := "commit " + row(s.rows) + " on " + n
	all := []string{
		commit, commit, commit, commit, commit, commit, commit + " at local", commit + " at remote_write", commit + " at remote_apply",
		"open " + n, "check " + n, "checkpoint " + n, "switch " + n, "load " + n + " 100KB", "load " + n + " 3MB",
		"set " + n + " none", "freeze checkpointer of " + n, "freeze postmaster of " + n,
	}
	for _, list := range []string{"ANY 1 (%s)", "ANY 1 (%s, %s)", "ANY 2 (%s, %s)", "FIRST 1 (%s, %s)"} {
		names := []any{o[0], o[1]}[:strings.Count(list, "%")]
		all = append(all, "sync "+n+" "+fmt.Sprintf(list, names...), "set "+n+" "+fmt.Sprintf(list, names...))
	}
	for _, sender := range m.cluster.server(n).proc.senders {
		all = append(all, "freeze sender "+sender.name+" of "+n)
	}
	for _, c := range m.cluster.Ledger() {
		if c.Node == n && c.Outcome == Waiting {
			for _, end := range []string{"cancel ", "terminate ", "disconnect ", "give up "} {
				all = append(all, end+c.ID)
			}
		}
	}
	return all
}

// standbys is what can be done to a standby.
func (s *script) standbys(m *modelServers, n string) []string {
	next, p := s.unusedNumber(m), m.cluster.server(n).proc
	all := []string{
		"fence " + n, "position of " + n, "checkpoint " + n,
		"freeze receiver of " + n, "freeze startup of " + n, "pause " + n, "resume " + n,
	}
	if p.startup == nil {
		return all
	}
	for _, of := range s.others(n) {
		all = append(all, "follow "+n+" "+of, "set "+n+" ANY 1 ("+of+")")
	}
	if p.startup.conninfo.IsZero() {
		promote := fmt.Sprintf("promote %s to ", n)
		all = append(all, fmt.Sprint(promote, next), fmt.Sprint(promote, next), fmt.Sprint(promote, next+1), fmt.Sprint("begin ", promote, next))
	} else {
		all = append(all, "follow "+n+" nobody", "fence "+n, "begin fence "+n)
	}
	if p.s.disk.newest(p.startup.along.Timeline)+1 == next {
		all = append(all, "trigger "+n)
	}
	return all
}

// unusedNumber is above each timeline that any server has ever had, or asked for.
func (s *script) unusedNumber(m *modelServers) pg.Timeline {
	highest := pg.Timeline(1)
	for _, line := range s.lines {
		if _, after, ok := strings.Cut(line, " to "); ok && strings.Contains(line, "promote ") {
			word, _, _ := strings.Cut(after, " ")
			if t, err := pg.ParseTimeline(word); err == nil {
				highest = max(highest, t)
			}
		}
	}
	for _, server := range m.cluster.servers {
		highest = max(highest, server.disk.newest(1), server.disk.wal.timelineAt(server.disk.wal.end()))
		for t := range server.disk.histories {
			highest = max(highest, t)
		}
	}
	return highest + 1
}

// network is what can happen between the servers.
func (s *script) network(m *modelServers) []string {
	var all []string
	for i, a := range s.names {
		for _, b := range s.names[i+1:] {
			if m.cut[a+">"+b] || m.cut[b+">"+a] {
				all = append(all, "heal", "expire "+a+" <-> "+b)
				continue
			}
			all = append(all, "cut "+a+" <-> "+b, "cut "+a+" to "+b, "cut "+b+" to "+a)
		}
	}
	return all
}
