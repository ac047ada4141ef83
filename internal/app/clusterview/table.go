package clusterview

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/pghad/pghad/pg"
)

// WriteTable writes the view for people.
func WriteTable(w io.Writer, v View) error {
	var text strings.Builder
	writeHead(&text, v)
	if len(v.Nodes) > 0 {
		text.WriteByte('\n')
		writeNodes(&text, v.Nodes)
	}
	for _, problem := range v.Problems {
		fmt.Fprintf(&text, "\nproblem: %s", problem)
	}
	if len(v.Problems) > 0 {
		text.WriteByte('\n')
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write the table of cluster %s: %w", v.Cluster, err)
	}
	return nil
}

// writeHead writes one line for each thing that the cluster has.
func writeHead(text *strings.Builder, v View) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(text, "%-13s"+format+"\n", append([]any{name}, args...)...)
	}
	line("cluster", "%s", v.Cluster)
	switch {
	case v.Term > 0 && v.Gate != "":
		line("leader", "%s, term %d, timeline %s, clients: %s", v.Leader, v.Term, v.Timeline, v.Gate)
	case v.Term > 0:
		line("leader", "%s, term %d, timeline %s", v.Leader, v.Term, v.Timeline)
	default:
		line("leader", "none in office: %s", v.Why)
	}
	if v.Quorum != nil {
		line("quorum", "%s", quorumLine(v.Quorum))
	}
	if v.Election != nil {
		line("election", "%s", electionLine(v.Election))
	}
	if v.Switchover != nil {
		line("switchover", "%s", switchoverLine(v.Switchover))
	}
	if v.Maintenance != nil {
		line("maintenance", "%s", maintenanceLine(v.Maintenance))
	}
}

func quorumLine(q *Quorum) string {
	text := fmt.Sprintf("each commit is on %s (mode %s, version %d)", copies(q), q.Mode, q.Version)
	if q.Tracker != "" {
		text += "; " + q.Tracker
	}
	return text
}

func electionLine(e *Election) string {
	text := fmt.Sprintf("%d, %s", e.ID, e.Phase)
	if e.Winner != "" {
		text += " by " + e.Winner
	}
	if e.Reason != "" {
		text += " (" + e.Reason + ")"
	}
	switch {
	case e.Open && e.Handover != nil:
		text += "; handed over by " + e.Handover.From
	case e.Open:
		text += fmt.Sprintf("; votes: %s; missing: %s", votes(e.Votes), or(strings.Join(e.Missing, ", "), "none"))
	}
	return text
}

func switchoverLine(s *Switchover) string {
	text := fmt.Sprintf("%s, from %s to %s", s.Phase, or(s.From, "somebody"), or(or(s.Target, s.To), "the best"))
	if s.By != "" {
		text += ", asked for by " + s.By
	}
	if s.Reason != "" {
		text += ": " + oneLine(s.Reason)
	}
	return text
}

func maintenanceLine(m *Maintenance) string {
	if m.Leaving {
		return fmt.Sprintf("being left; it ends when %s has confirmed", or(m.Primary, "its primary"))
	}
	text := "on"
	if m.Since != "" {
		text += " since " + m.Since
	}
	if len(m.Waiting) > 0 {
		text += "; not heeded yet by " + strings.Join(m.Waiting, ", ")
	}
	return text
}

func copies(q *Quorum) string {
	if q.K == 0 {
		return q.Primary.Node + " alone"
	}
	return fmt.Sprintf("%s and any %d of %s", q.Primary.Node, q.K, lives(q.Members))
}

func lives(members []Life) string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.Node
		for j, other := range members {
			if i != j && other.Node == m.Node {
				names[i] = m.Node + "." + m.Incarnation
			}
		}
	}
	return strings.Join(names, ", ")
}

func votes(cast []Vote) string {
	if len(cast) == 0 {
		return "none"
	}
	texts := make([]string, len(cast))
	for i, vote := range cast {
		texts[i] = vote.Node + " without a position"
		if vote.HasPosition {
			texts[i] = fmt.Sprintf("%s (%s, %s)", vote.Node, vote.Timeline, vote.LSN)
		}
	}
	return strings.Join(texts, ", ")
}

func writeNodes(text *strings.Builder, nodes []Node) {
	var table bytes.Buffer
	tw := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NODE\tROLE\tSTATE\tTIMELINE\tWAL\tREPLAYED\tLAG\tSYNC\tQUORUM\tPLEDGE\tWHY")
	for _, n := range nodes {
		role := n.Role
		if n.Leader {
			role = "leader"
		}
		lag := ""
		if n.Lag != nil {
			lag = strconv.FormatUint(*n.Lag, 10)
		}
		row := []string{n.Name, role, n.State, number(uint64(n.Timeline)), lsn(max(n.Flushed, n.Received)), lsn(n.Replayed), lag, n.Sync, n.Quorum, number(n.Pledge)}
		for i := range row {
			row[i] = or(row[i], "-")
		}
		fmt.Fprintln(tw, strings.Join(append(row, oneLine(n.Why)), "\t"))
	}
	_ = tw.Flush() // into memory
	for line := range strings.Lines(table.String()) {
		text.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// oneLine keeps a reason with line ends, as connection errors have, in its row.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func number(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func lsn(l pg.LSN) string {
	if l == 0 {
		return ""
	}
	return l.String()
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
