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

func writeHead(text *strings.Builder, v View) {
	fmt.Fprintf(text, "cluster   %s\n", v.Cluster)
	switch {
	case v.Term > 0:
		fmt.Fprintf(text, "leader    %s, term %d, timeline %s", v.Leader, v.Term, v.Timeline)
		if v.Gate != "" {
			fmt.Fprintf(text, ", clients: %s", v.Gate)
		}
		text.WriteByte('\n')
	default:
		fmt.Fprintf(text, "leader    none in office: %s\n", v.Why)
	}
	if q := v.Quorum; q != nil {
		fmt.Fprintf(text, "quorum    each commit is on %s (mode %s, version %d)", copies(q), q.Mode, q.Version)
		if q.Tracker != "" {
			fmt.Fprintf(text, "; %s", q.Tracker)
		}
		text.WriteByte('\n')
	}
	if e := v.Election; e != nil {
		fmt.Fprintf(text, "election  %d, %s", e.ID, e.Phase)
		if e.Winner != "" {
			fmt.Fprintf(text, " by %s", e.Winner)
		}
		if e.Reason != "" {
			fmt.Fprintf(text, " (%s)", e.Reason)
		}
		if e.Open {
			fmt.Fprintf(text, "; votes: %s; missing: %s", votes(e.Votes), or(strings.Join(e.Missing, ", "), "none"))
		}
		text.WriteByte('\n')
	}
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
