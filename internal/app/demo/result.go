package demo

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/pghad/pghad/internal/workload"
)

// Result is the end of a script. Its JSON is one object with these keys.
type Result struct {
	Scenario     string           `json:"scenario"`
	Acknowledged int              `json:"acknowledged"` // rows that clients were promised
	Lost         int              `json:"lost"`         // of those, missing on a node
	TwoWriters   int              `json:"two_writers"`  // acknowledgements that only two writers at one time explain
	OutageMS     int64            `json:"outage_ms"`    // longest gap between two acknowledgements since the fault; 0 below 100
	Promoted     string           `json:"promoted"`     // the primary at the end if it is another node than before the fault
	Rejoined     bool             `json:"rejoined"`     // the node that was hit is a part of the cluster again
	Verdict      workload.Verdict `json:"verdict"`      // ok, lost, two_writers, stuck, error
}

// OK reports whether the promise was kept and the cluster did what it should.
func (r Result) OK() bool { return r.Verdict == workload.VerdictOK }

// write prints the result, as JSON or in words.
func (r Result) write(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	promoted := "no node was promoted"
	if r.Promoted != "" {
		promoted = r.Promoted + " was promoted"
	}
	rejoined := "the cluster is not whole"
	if r.Rejoined {
		rejoined = "the cluster is whole again"
	}
	_, err := fmt.Fprintf(out, "%s: %s\n  %d rows acknowledged, %d lost, %d acknowledged by a second writer\n  writes stood still for %d ms; %s; %s\n",
		r.Scenario, r.Verdict, r.Acknowledged, r.Lost, r.TwoWriters, r.OutageMS, promoted, rejoined)
	return err
}
