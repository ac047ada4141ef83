package hatest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pghad/pghad/ha/record"
)

// Expectation is what one plan expects beyond what must always hold: of the whole
// run, or at a time. Text:
//
//	expect failovers 1             promotions after the first term
//	expect rebuilds 0              rewinds and clones, besides the first copy of each node
//	expect writes 5s               no longer than that without an acknowledged commit
//	expect at 40s leader a         who holds the leader lock then; "nobody"
//	expect at 40s primary a        whose server takes writes then; "nobody"
//	expect at 40s switchover done  the phase of the last switchover then; "none"
//	expect at 40s maintenance on   whether it is on, "leaving", or "off"
//	expect leader a                as above, in the end
//
// Writes are looked at from the first commit to the end of the plan's length.
type Expectation struct {
	At   time.Duration // zero: in the end
	What string
	Want string
}

// String is the line of the plan.
func (e Expectation) String() string {
	if e.At > 0 {
		return fmt.Sprintf("expect at %s %s %s", e.At, e.What, e.Want)
	}
	return fmt.Sprintf("expect %s %s", e.What, e.Want)
}

// ofTheRun are expectations of everything that happens; all others are of a moment.
var ofTheRun = []string{"failovers", "rebuilds", "writes"}

func parseExpectation(words []string) (Expectation, error) {
	var e Expectation
	r := &reader{words: words}
	if len(r.words) > 0 && r.words[0] == "at" {
		r.word()
		e.At = r.duration()
	}
	e.What, e.Want = r.word(), r.word()
	if err := r.end(); err != nil {
		return e, err
	}
	var err error
	switch e.What {
	case "failovers", "rebuilds":
		_, err = strconv.ParseUint(e.Want, 10, 31)
	case "writes":
		_, err = time.ParseDuration(e.Want)
	case "leader", "primary", "switchover", "maintenance":
	default:
		return e, fmt.Errorf("unknown expectation %q", e.What)
	}
	if err == nil && e.At > 0 && slices.Contains(ofTheRun, e.What) {
		err = errors.New("this is an expectation of the whole run")
	}
	return e, err
}

// expectAt schedules the expectations that have a time.
func (s *simulation) expectAt() {
	for n, e := range s.plan.Expect {
		if e.At > 0 {
			id := newDigest().str("expect").num(uint64(n))
			s.world.after(e.At, id, nil, func() { s.expect(e) })
		}
	}
}

// expectInTheEnd looks at the others.
func (s *simulation) expectInTheEnd() {
	for _, e := range s.plan.Expect {
		if e.At == 0 {
			s.expect(e)
		}
	}
}

func (s *simulation) expect(e Expectation) {
	if got, ok := s.fulfilled(e); !ok {
		s.violatef(ruleExpectation, "%s: it is %s", e, got)
	}
}

func (s *simulation) fulfilled(e Expectation) (got string, ok bool) {
	switch e.What {
	case "writes":
		limit, _ := time.ParseDuration(e.Want)
		return fmt.Sprintf("%s, until %s", s.oracle.silence, s.oracle.silentTill), s.oracle.silence <= limit
	case "failovers":
		got = strconv.Itoa(s.result.Failovers)
	case "rebuilds":
		got = strconv.Itoa(s.oracle.rebuilds)
	case "leader":
		got = s.records.Leader.Holder
	case "primary":
		got = strings.Join(s.serving(), "+")
	case "switchover":
		got = string(s.records.SwitchoverState.Value)
		if s.records.SwitchoverState.Value == record.SwitchoverNone {
			got = "none"
		}
	case "maintenance":
		got = map[record.MaintenanceMode]string{
			record.MaintenanceOff: "off", record.MaintenanceOn: "on", record.MaintenanceLeaving: "leaving",
		}[s.records.Maintenance.Mode.Value]
	}
	if got == "" {
		got = "nobody"
	}
	return got, got == e.Want
}

// serving are the hosts whose servers take writes of clients.
func (s *simulation) serving() []string {
	var names []string
	for _, h := range s.world.machines() {
		if server := s.servers.cluster.Server(h.name); serves(server) && !h.halted {
			names = append(names, h.name)
		}
	}
	return names
}
