package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/pghad/pghad/internal/workload"
)

// Result is the end of a script. Its JSON is one object with these keys.
type Result struct {
	Scenario     string           `json:"scenario"`
	DCS          string           `json:"dcs,omitempty"`         // what held the records
	DCSMembers   int              `json:"dcs_members,omitempty"` // how many servers that consisted of
	Acknowledged int              `json:"acknowledged"`          // rows that clients were promised
	Failed       int              `json:"failed"`                // writes that were refused
	Unknown      int              `json:"unknown"`               // writes of which clients heard nothing
	Lost         int              `json:"lost"`                  // of those acknowledged, missing on a node
	TwoWriters   int              `json:"two_writers"`           // acknowledgements that only two writers at one time explain
	OutageMS     int64            `json:"outage_ms"`             // longest gap between two acknowledgements since the fault; 0 below 100
	Promoted     string           `json:"promoted"`              // the primary at the end if it is another node than before the fault
	Rejoined     bool             `json:"rejoined"`              // the node that was hit is a part of the cluster again
	Verdict      workload.Verdict `json:"verdict"`               // ok, lost, two_writers, stuck, broken, error

	Switchovers []Switchover `json:"switchovers,omitempty"` // of the script switchover
	Lock        *Lock        `json:"lock,omitempty"`        // of scripts that take the store or the agent from it
	Hang        *Hang        `json:"hang,omitempty"`        // of the script hang-agent
	Thaw        *Thaw        `json:"thaw,omitempty"`        // of the script freeze-node
	Broken      []string     `json:"broken,omitempty"`      // what else was promised and did not hold
}

// Switchover is one planned move of the primary.
type Switchover struct {
	From     string `json:"from"`
	To       string `json:"to"`        // who was asked for; empty: the best
	Leader   string `json:"leader"`    // who leads afterwards; empty: nobody
	OutageMS int64  `json:"outage_ms"` // longest gap between two acknowledgements around it; 0 below 100
	TotalMS  int64  `json:"total_ms"`  // all such gaps of 100 ms and above together
	TookMS   int64  `json:"took_ms"`   // until the command returned
	Followed bool   `json:"followed"`  // the old primary follows the new one with the data that it had
	How      string `json:"how"`       // how it came to follow, as its log and its data say
}

// Lock is what became of the leader's lock.
type Lock struct {
	Leader      string `json:"leader"`        // who held it before
	Kept        bool   `json:"kept"`          // the same node holds it in the end, without a break since HeldAgainMS
	HeldAgainMS int64  `json:"held_again_ms"` // from the return of what was away
	TermBefore  uint64 `json:"term_before"`
	TermAfter   uint64 `json:"term_after"`
}

// Hang is how long a node kept its term whose agent's loop hung.
type Hang struct {
	DeposedMS int64 `json:"deposed_ms"` // until another node led and admitted clients
	LimitMS   int64 `json:"limit_ms"`   // at the latest, by the nodes' timings
}

// Thaw is what a server did that had stood still, with its agent and its guard, until
// another node led. In mode async nothing but a watchdog device keeps it from
// acknowledging writes until its guard has run.
type Thaw struct {
	Acknowledged int     `json:"acknowledged"` // writes of the sessions that had waited for it
	WindowMS     float64 `json:"window_ms"`    // from before it went on to the last of them; 0 without any
	GoneMS       float64 `json:"gone_ms"`      // until its postmaster was gone
}

// OK reports whether the promise was kept and the cluster did what it should.
func (r Result) OK() bool { return r.Verdict == workload.VerdictOK }

// write prints the result, as JSON or in words.
func (r Result) write(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	_, err := io.WriteString(out, r.text())
	return err
}

func (r Result) text() string {
	promoted := "no node was promoted"
	if r.Promoted != "" {
		promoted = r.Promoted + " was promoted"
	}
	rejoined := "the cluster is not whole"
	if r.Rejoined {
		rejoined = "the cluster is whole again"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %s\n  %d rows acknowledged, %d lost, %d acknowledged by a second writer; %d writes failed, %d are unknown\n"+
		"  writes stood still for %d ms; %s; %s\n",
		r.Scenario, r.Verdict, r.Acknowledged, r.Lost, r.TwoWriters, r.Failed, r.Unknown, r.OutageMS, promoted, rejoined)
	for _, s := range r.Switchovers {
		fmt.Fprintf(&text, "  %s\n", s)
	}
	if r.Lock != nil {
		fmt.Fprintf(&text, "  %s\n", r.Lock)
	}
	if r.Hang != nil {
		fmt.Fprintf(&text, "  %s\n", r.Hang)
	}
	if r.Thaw != nil {
		fmt.Fprintf(&text, "  %s\n", r.Thaw)
	}
	for _, sentence := range r.Broken {
		fmt.Fprintf(&text, "  broken: %s\n", sentence)
	}
	return text.String()
}

// String tells it in one sentence.
func (s Switchover) String() string {
	to := s.To
	if to == "" {
		to = "the best"
	}
	leads := s.Leader + " leads"
	if s.Leader == "" {
		leads = "nobody leads"
	}
	return fmt.Sprintf("from %s to %s: writes stood still for %d ms, %d ms in all; done after %d ms; %s; %s came back by: %s",
		s.From, to, s.OutageMS, s.TotalMS, s.TookMS, leads, s.From, s.How)
}

// String tells it in one sentence.
func (l Lock) String() string {
	if !l.Kept {
		return fmt.Sprintf("%s has not kept the leader's lock; term %d before, %d after", l.Leader, l.TermBefore, l.TermAfter)
	}
	return fmt.Sprintf("%s held the leader's lock again after %d ms; term %d before, %d after", l.Leader, l.HeldAgainMS, l.TermBefore, l.TermAfter)
}

// String tells it in one sentence.
func (h Hang) String() string {
	return fmt.Sprintf("another node led %d ms after the agent had begun to hang, at most %d ms are allowed", h.DeposedMS, h.LimitMS)
}

// String tells it in one sentence.
func (t Thaw) String() string {
	if t.Acknowledged == 0 {
		return fmt.Sprintf("the thawed server has acknowledged nothing; its postmaster was gone after %.1f ms", t.GoneMS)
	}
	return fmt.Sprintf("the thawed server has acknowledged %d writes, the last after %.1f ms; its postmaster was gone after %.1f ms",
		t.Acknowledged, t.WindowMS, t.GoneMS)
}
