package demo

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/workload"
)

// events are the last things that happened. Safe for concurrent use.
type events struct {
	mu    sync.Mutex
	most  int
	lines []string
	total int
}

func (e *events) add(line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines = append(e.lines, line)
	e.lines = e.lines[max(0, len(e.lines)-e.most):]
	e.total++
}

// last returns the lines that are kept, and how many there were in all.
func (e *events) last() (lines []string, total int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.lines...), e.total
}

// picture is one look at a running demo.
type picture struct {
	View    clusterview.View
	Stale   bool // the store does not answer: View is what it said last
	Looks   []workload.Look
	Down    map[string]bool // nodes whose agent does not run
	Counts  workload.Counts
	Rate    float64 // acknowledged rows per second
	Open    time.Duration
	Longest time.Duration
	Events  []string
}

const keysLine = "kill: p postmaster  a agent  n node   r start it again   s switchover   d stop and start the store   q quit"

// lines draws the picture, the same for the same picture.
func (p picture) lines() []string {
	leader := p.View.Leader
	if leader == "" {
		leader = "nobody"
	}
	news := quorumText(p.View)
	if p.Stale {
		news = "the store does not answer; this is from before"
	}
	lines := []string{
		fmt.Sprintf("leader %-8s term %-4d timeline %-4d %s", leader, p.View.Term, p.View.Timeline, news),
		"",
		fmt.Sprintf("%-6s %-9s %-10s %10s  %-8s %s", "node", "role", "state", "lag", "quorum", "waits for"),
	}
	head := p.head()
	for _, look := range p.Looks {
		lines = append(lines, p.nodeLine(look, head))
	}
	lines = append(
		lines, "",
		fmt.Sprintf("rows %s, %.0f a second", p.Counts, p.Rate),
		fmt.Sprintf("outage %s now, %s the longest", milliseconds(p.Open), milliseconds(p.Longest)),
		"",
	)
	lines = append(lines, p.Events...)
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return lines
}

// head is where the primary's WAL ends.
func (p picture) head() uint64 {
	var head uint64
	for _, look := range p.Looks {
		if look.Primary {
			head = max(head, look.LSN)
		}
	}
	return head
}

func (p picture) nodeLine(look workload.Look, head uint64) string {
	said, _ := p.View.Node(look.Node)
	role, state, lag := "standby", "waits", ""
	switch {
	case p.Down[look.Node] && look.Err != "":
		role, state = "-", "killed"
	case look.Err != "":
		role, state = "-", "no answer"
	case look.Primary:
		role, state = "primary", "running"
	case look.Receiving:
		state = "streaming"
	}
	if p.Down[look.Node] && look.Err == "" {
		state = "no agent"
	}
	if role == "standby" && head > 0 {
		lag = fmt.Sprintf("%d B", max(head, look.LSN)-look.LSN)
	}
	return fmt.Sprintf("%-6s %-9s %-10s %10s  %-8s %s", look.Node, role, state, lag, said.Quorum, said.Why)
}

func quorumText(view clusterview.View) string {
	if view.Quorum == nil {
		return ""
	}
	names := make([]string, len(view.Quorum.Members))
	for i, member := range view.Quorum.Members {
		names[i] = member.Node
	}
	return fmt.Sprintf("commits wait for %d of %s", view.Quorum.K, strings.Join(names, ", "))
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
