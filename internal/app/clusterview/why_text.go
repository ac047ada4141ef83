package clusterview

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pghad/pghad/ha/record"
)

// WriteExplanation writes the explanation for people: the verdict first.
func WriteExplanation(w io.Writer, e Explanation) error {
	var text strings.Builder
	fmt.Fprintln(&text, e.Verdict.Text)
	for _, detail := range e.Verdict.Details {
		fmt.Fprintln(&text, "  "+detail)
	}
	writeLocks(&text, e)
	if e.Quorum != nil {
		writeArithmetic(&text, e)
	}
	if e.Election != nil {
		writeAccount(&text, e)
	}
	writeSwitchover(&text, e.Switchover)
	writeMaintenance(&text, e)
	writeWords(&text, e)
	if len(e.Problems) > 0 {
		heading(&text, "problems")
		for _, problem := range e.Problems {
			fmt.Fprintln(&text, "  "+oneLine(problem))
		}
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write the explanation of cluster %s: %w", e.Cluster, err)
	}
	return nil
}

func heading(text *strings.Builder, title string) { fmt.Fprintf(text, "\n%s\n", title) }

// columns writes rows under each other; the last column may be of any length.
func columns(text *strings.Builder, rows [][]string) {
	var table bytes.Buffer
	tw := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(tw, "  "+strings.Join(row, "\t"))
	}
	_ = tw.Flush() // into memory
	for line := range strings.Lines(table.String()) {
		text.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

func writeLocks(text *strings.Builder, e Explanation) {
	heading(text, "who holds what")
	var rows [][]string
	for _, lock := range e.Locks {
		holder := "nobody"
		if lock.Token != 0 {
			holder = fmt.Sprintf("%s, token %d", or(lock.Holder, "somebody"), lock.Token)
			if lock.Session != "" {
				holder += ", session " + lock.Session
			}
		}
		if lock.Name == "leader" && e.Term != nil {
			holder += fmt.Sprintf(": term %d, timeline %s", e.Term.ID, e.Term.Timeline)
			if e.Term.Since != "" {
				holder += ", since " + e.Term.Since
			}
		}
		rows = append(rows, []string{lock.Name, holder})
	}
	if e.Term != nil {
		rows = append(rows, []string{"gate", or(oneLine(e.Gate), "nothing said yet in this term")})
	}
	columns(text, rows)
}

func writeArithmetic(text *strings.Builder, e Explanation) {
	q := e.Quorum
	heading(text, "quorum")
	d := []string{q.Primary.Node + "." + q.Primary.Incarnation + " (primary)"}
	for _, m := range q.Members {
		d = append(d, m.Node+"."+m.Incarnation)
	}
	copiesOf := "1 copy"
	if q.Copies > 1 {
		copiesOf = fmt.Sprintf("%d copies", q.Copies)
	}
	rows := [][]string{
		{"recorded", fmt.Sprintf("version %d, mode %s, D = %s", q.Version, q.Mode, strings.Join(d, ", "))},
		{"commits", fmt.Sprintf("k = %d: %s of each, on %s", q.K, copiesOf, copies(&q.Quorum))},
		{"elections", fmt.Sprintf("%s - %s + 1 = %s needed, or that of %s alone", count(q.Nodes, "node"), copiesOf, count(q.Votes, "vote"), q.Primary.Node)},
	}
	if e.Term != nil {
		rows = append(rows,
			[]string{"streaming", or(strings.Join(q.Streaming, ", "), "no member")},
			[]string{"tracker", or(oneLine(q.Tracker), "nothing said yet in this term")})
	}
	columns(text, rows)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func writeAccount(text *strings.Builder, e Explanation) {
	a := e.Election
	title := fmt.Sprintf("election %d: %s", a.ID, a.Phase)
	if a.Winner != "" {
		title += " by " + a.Winner
	}
	if a.Manager != "" {
		title += ", opened by " + a.Manager
	}
	if a.Reason != "" {
		title += " (" + oneLine(a.Reason) + ")"
	}
	heading(text, title)
	var rows [][]string
	if h := a.Handover; h != nil {
		rows = append(rows, []string{h.From, fmt.Sprintf("handed over where its WAL ends: %s on timeline %s; nobody votes", h.LSN, h.Timeline)})
	}
	for _, vote := range a.Votes {
		said := "voted without a position: its fence counts, it cannot win"
		if vote.HasPosition {
			said = fmt.Sprintf("voted: %s on timeline %s, priority %d", vote.LSN, vote.Timeline, vote.Priority)
			if !vote.MayWin {
				said += ", may not win"
			}
		}
		rows = append(rows, []string{vote.Node, said})
	}
	for _, w := range a.Waiting {
		rows = append(rows, []string{w.Node, "no vote; " + inOwnWords(w)})
	}
	columns(text, rows)
	if a.Why != "" {
		fmt.Fprintln(text, "  "+a.Why)
	}
}

// inOwnWords is what a node says, for after a semicolon.
func inOwnWords(w Words) string {
	switch {
	case !w.Present && !w.Alive:
		return "nothing is heard of it"
	case !w.Present:
		return "its agent is not heard of"
	case w.Why == "":
		return "it waits for nothing"
	}
	return "it says: " + oneLine(w.Why)
}

func writeSwitchover(text *strings.Builder, s *Switchover) {
	if s == nil {
		heading(text, "switchover: none was ever asked for")
		return
	}
	heading(text, "switchover: "+s.Phase)
	rows := [][]string{{"asked for", fmt.Sprintf("from %s to %s", or(s.From, "somebody"), or(s.To, "the best"))}}
	if s.By != "" {
		rows[0][1] += ", by " + s.By
	}
	if s.At != "" {
		rows[0][1] += ", at " + s.At
	}
	if s.Target != "" {
		rows = append(rows, []string{"target", s.Target})
	}
	switch {
	case s.Next != 0:
		rows = append(rows, []string{"terms", fmt.Sprintf("%d ends, %d begins", s.Term, s.Next)})
	case s.Term != 0:
		rows = append(rows, []string{"term", fmt.Sprint(s.Term)})
	}
	if meaning := meaningOf[record.SwitchoverPhase(s.Phase)]; meaning != "" {
		rows = append(rows, []string{"now", meaning})
	}
	if s.Reason != "" {
		rows = append(rows, []string{"reason", oneLine(s.Reason)})
	}
	columns(text, rows)
}

// meaningOf says of each phase what happens in it.
var meaningOf = map[record.SwitchoverPhase]string{
	record.SwitchoverScheduled: "the primary takes it up when it next looks; until then it can be cancelled",
	record.SwitchoverPreparing: "the primary waits until the target is close; writes go on",
	record.SwitchoverStopping:  "the primary stops its server, and can still go back",
	record.SwitchoverCommitted: "there is no way back: the target takes over, or an election decides",
}

func writeMaintenance(text *strings.Builder, e Explanation) {
	m := e.Maintenance
	if m == nil {
		heading(text, "maintenance: off")
		return
	}
	title := "maintenance: on"
	if m.Leaving {
		title = "maintenance: being left"
	}
	heading(text, title)
	rows := [][]string{{"since", or(m.Since, "not recorded")}, {"primary", or(m.Primary, "not recorded")}}
	var keeping []string
	for _, w := range e.Nodes {
		if w.Maintenance {
			keeping = append(keeping, w.Node)
		}
	}
	rows = append(rows, []string{"keep to it", or(strings.Join(keeping, ", "), "nobody")})
	if len(m.Waiting) > 0 {
		rows = append(rows, []string{"do not yet", strings.Join(m.Waiting, ", ")})
	}
	columns(text, rows)
}

func writeWords(text *strings.Builder, e Explanation) {
	if len(e.Nodes) == 0 {
		return
	}
	heading(text, "nodes, in their own words")
	rows := make([][]string, 0, len(e.Nodes))
	for _, w := range e.Nodes {
		what := []string{w.Role, w.State}
		if w.Leader {
			what[0] = "leader"
		}
		switch w.Quorum {
		case NotCounted:
			what = append(what, "not in the quorum")
		case FormerLife:
			what = append(what, "a new life of a recorded node")
		}
		if w.NoFailover {
			what = append(what, "nofailover")
		}
		if w.Pledge != 0 {
			what = append(what, fmt.Sprintf("pledge %d", w.Pledge))
		}
		if !w.Present {
			what = slices.DeleteFunc(what, func(s string) bool { return s == "unknown" })
		}
		rows = append(rows, []string{w.Node, strings.Join(what, ", "), or(oneLine(w.Why), "-")})
	}
	columns(text, rows)
}

// durationText is a recorded duration with its unit.
func durationText(d record.Duration) string { return time.Duration(d).String() }
