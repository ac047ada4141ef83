package quorum

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pghad/pghad/pg"
)

// Next says the one next step from what is recorded and in force towards what
// is wanted. After it has been carried out, look again: no step relies on the
// ones before it having been made by the same caller.
func Next(v View) Step {
	step := v.next()
	if step.Alarms = alarms(v.Sync); len(step.Alarms) > 0 {
		step.Why += "; alarm: " + strings.Join(step.Alarms, "; ")
	}
	return step
}

func (v View) next() Step {
	if err := v.Recorded.Validate(); err != nil {
		return Step{Kind: None, Why: "the record cannot be used: " + err.Error()}
	}
	if v.Sync.Flush == 0 {
		return Step{Kind: None, Why: "the server is not a primary: it shows no flush position"}
	}
	if !Safe(v.Recorded, v.Sync.Setting) {
		return v.set(Probe(v.Recorded, v.Sync), true, "the setting in force acknowledges commits without the copies that the record claims")
	}
	if step, change := v.changeMode(); change {
		return step
	}
	goal := v.goal()
	mending := v.Recorded.K > 0 && IsProbe(v.Sync.Setting) && !v.sound()
	switch {
	case goal.narrows && covers(v.Sync.Setting, goal.record):
		return v.claim(goal) // under way
	case goal.widens() && (mending || goal.record.K < v.Recorded.K):
		return goal.write() // commits may wait for it
	case mending && !v.settled(v.Recorded):
		return v.claim(aim{record: v.Recorded, narrows: true, why: "an unsafe setting has been in force, or a change was interrupted"})
	case !v.Sync.Setting.Equal(v.Recorded.Setting()):
		return v.follow()
	case goal.narrows:
		return v.claim(goal)
	case goal.widens():
		return goal.write()
	default:
		return Step{Kind: None, Record: v.Recorded, Why: goal.why, Waits: goal.waits}
	}
}

// set is a WriteSetting.
func (v View) set(s pg.SyncSetting, proves bool, why string) Step {
	return Step{Kind: WriteSetting, Record: v.Recorded, Setting: s, Proves: proves, Why: why}
}

// follow puts the recorded setting in force, which is always safe.
func (v View) follow() Step {
	to := v.Recorded.Setting()
	if v.HoldWidening != "" && widens(v.Sync.Setting, to) {
		return Step{Kind: None, Why: "the setting must not follow the record yet", Waits: []string{v.HoldWidening}}
	}
	return v.set(to, false, "the setting in force is not the recorded one")
}

// widens reports whether to lets commits through that from holds.
func widens(from, to pg.SyncSetting) bool {
	if from.Empty() || to.Empty() {
		return !from.Empty()
	}
	return to.K < from.K || slices.ContainsFunc(to.Names, func(n string) bool { return !from.Has(n) })
}

// changeMode records another mode. Towards async the record gives up its claim
// first; any other change keeps k and, with it, every claim.
func (v View) changeMode() (Step, bool) {
	if v.Mode == "" || v.Mode == v.Recorded.Mode {
		return Step{}, false
	}
	to := v.Recorded
	to.Mode = v.Mode
	if to.Mode == ModeAsync {
		to.K = 0
	}
	if err := to.Validate(); err != nil {
		return Step{Kind: None, Why: "the mode that is wanted cannot be recorded: " + err.Error()}, true
	}
	return Step{Kind: WriteRecord, Record: to, Why: fmt.Sprintf("mode %s is wanted", v.Mode)}, true
}

// claim goes the way of a change that claims more of the record: setting,
// adoption, checkpoints, barrier, record. Where the record claims it already, an
// unsafe setting is being mended; Next ends that with the recorded setting.
func (v View) claim(goal aim) Step {
	to, p := goal.record, v.Progress
	on := func(kind Kind, waits ...string) Step {
		return Step{Kind: kind, Record: to, Why: goal.why, Waits: waits}
	}
	if !v.ours() {
		step := on(WriteSetting)
		step.Setting = v.Sync.Setting
		step.Why += ": first what is in force is written again, so that nothing else is pending"
		return step
	}
	if to.K > 0 && (!p.Proves || !covers(v.Sync.Setting, to)) {
		step := on(WriteSetting)
		step.Setting, step.Proves = v.proof(to), true
		return step
	}
	if p.Barrier == 0 {
		if adopted, missing := Adopted(v.Sync, v.listed(), v.Sync.Setting); !adopted {
			return on(AwaitAdoption, missing...)
		}
		if to.K == 0 {
			return on(WriteRecord) // no position is claimed of anybody
		}
		if !p.Armed && !v.sound() {
			return on(Checkpoint)
		}
		return on(ReadBarrier)
	}
	if passed, missing := Passed(v.Sync, to, p.Barrier); !passed {
		return on(AwaitBarrier, missing...)
	}
	return on(WriteRecord)
}

// listed is a setting of all names that a walsender may still believe to be
// listed, without a claim on K.
func (v View) listed() pg.SyncSetting {
	all := pg.SyncSetting{Method: pg.SyncAny, K: max(1, v.Sync.Setting.K), Names: slices.Clone(v.Progress.Before)}
	for _, m := range v.Recorded.Members {
		all.Names = append(all.Names, m.String())
	}
	return all
}

// proof is a setting for c whose adoption shows: plain ANY where it does (from
// empty), else a probe. Where an unsafe setting is being mended it is a probe,
// which a later tracker recognises.
func (v View) proof(c Config) pg.SyncSetting {
	mending := v.Recorded.K > 0 && !v.sound()
	if plain := c.Setting(); !mending && visible(v.Sync, plain) {
		return plain
	}
	return Probe(c, v.Sync)
}

// aim is the next record that is wanted: the same as now (it does not change),
// one that claims less (it widens), or one that claims more (it narrows).
type aim struct {
	record  Config
	changes bool
	narrows bool
	why     string
	waits   []string
}

func (a aim) widens() bool { return a.changes && !a.narrows }

func (a aim) write() Step { return Step{Kind: WriteRecord, Record: a.record, Why: a.why} }

func (v View) stay(why string, waits ...string) aim {
	return aim{record: v.Recorded, why: why, waits: waits}
}

func (v View) toK(k int, why string) aim {
	to := v.Recorded
	to.K = k
	return aim{record: to, changes: true, narrows: k > v.Recorded.K, why: why}
}

func (v View) without(m Member, why string) aim {
	to := v.Recorded
	to.Members = slices.DeleteFunc(slices.Clone(to.Members), func(o Member) bool { return o == m })
	return aim{record: to, changes: true, narrows: true, why: why}
}

func (v View) with(m Member) aim {
	to := v.Recorded
	to.Members = append(slices.Clone(to.Members), m)
	slices.SortFunc(to.Members, Member.Compare)
	return aim{record: to, changes: true, why: fmt.Sprintf("%s streams and is added", m)}
}

// goal chooses what changes next. Fewer than k members left: lower k first, or,
// where k must not fall, add first. Else remove, then add, then adjust k.
func (v View) goal() aim {
	now := v.Recorded
	leaving, admissible := v.leaving(), v.admissible()
	left := len(now.Members) - len(leaving)
	if left < now.K {
		if k := max(left, v.floor()); k < now.K {
			return v.toK(k, fmt.Sprintf("only %d of %d members are left", left, len(now.Members)))
		}
		if len(admissible) > 0 {
			return v.with(admissible[0])
		}
		return v.stay("commits wait: k must not fall and nobody can be added", v.absent()...)
	}
	if len(leaving) > 0 {
		return v.removal(leaving[0].member, leaving[0].why)
	}
	if m, surplus := v.surplus(); surplus && now.K > 1 {
		return v.toK(1, "mode sync wants k = 1")
	} else if surplus {
		return v.removal(m, fmt.Sprintf("%s is more than mode %s needs and is removed", m, now.Mode))
	}
	if len(admissible) > 0 && (now.Mode != ModeSync || len(now.Members) == 0) {
		return v.with(admissible[0])
	}
	return v.adjustK()
}

// removal waits until the others can reach k by themselves: until then the one
// that leaves may still be needed for commits to go on.
func (v View) removal(m Member, why string) aim {
	to := v.without(m, why)
	if streaming(v.Sync, to.record.Members) < v.Recorded.K {
		return v.stay(why+", as soon as the others suffice", v.absent()...)
	}
	return to
}

// adjustK brings k to where the mode and the number of members want it.
func (v View) adjustK() aim {
	now, want := v.Recorded, v.wantK()
	switch {
	case now.K > want:
		return v.toK(want, fmt.Sprintf("k = %d is wanted for %s", want, inWords(len(now.Members))))
	case now.K == want:
		return v.stay("as wanted", v.absent()...)
	case streaming(v.Sync, now.Members) <= now.K:
		return v.stay(fmt.Sprintf("k = %d is wanted, as soon as enough members stream", want), v.absent()...)
	default:
		return v.toK(now.K+1, fmt.Sprintf("k = %d is wanted for %s", want, inWords(len(now.Members))))
	}
}

func inWords(n int) string {
	if n == 1 {
		return "one member"
	}
	return fmt.Sprintf("%d members", n)
}

func (v View) wantK() int {
	n := len(v.Recorded.Members)
	var k int
	switch v.Recorded.Mode {
	case ModeQuorum:
		k = (n + 1) / 2
	case ModeSync:
		k = min(n, 1)
	case ModeAsync:
		return 0
	}
	if v.MaxK > 0 {
		k = min(k, v.MaxK)
	}
	return k
}

// floor is what k must not be lowered below.
func (v View) floor() int {
	if v.Strict && v.Recorded.Mode != ModeAsync {
		return min(v.Recorded.K, 1)
	}
	return 0
}

type leaver struct {
	member Member
	why    string
}

// leaving are the recorded members that must go, in the record's order.
func (v View) leaving() []leaver {
	var leavers []leaver
	for _, m := range v.Recorded.Members {
		if why := v.leaves(m); why != "" {
			leavers = append(leavers, leaver{m, why})
		}
	}
	return leavers
}

// leaves says why a recorded member must go, "" if it need not.
func (v View) leaves(m Member) string {
	if m.Node == v.Recorded.Primary.Node {
		return fmt.Sprintf("%s is a former life of the primary's node and is removed", m)
	}
	for _, c := range v.Candidates {
		switch {
		case c.Member == m && c.NoSync:
			return fmt.Sprintf("%s must not be waited for and is removed", m)
		case c.Member != m && c.Member.Node == m.Node:
			return fmt.Sprintf("%s has been replaced by %s and is removed", m, c.Member)
		}
	}
	if slices.Contains(v.Lost, m) {
		return fmt.Sprintf("%s is gone and is removed", m)
	}
	return ""
}

// surplus is the member that sync mode has beyond its one: not the best of
// those that stream.
func (v View) surplus() (Member, bool) {
	if v.Recorded.Mode != ModeSync || len(v.Recorded.Members) < 2 {
		return Member{}, false
	}
	worst := slices.MinFunc(v.Recorded.Members, func(a, b Member) int {
		rank := func(m Member) int {
			if Streams(v.Sync, m) {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(v.priorityOf(a), v.priorityOf(b)), b.Compare(a))
	})
	return worst, true
}

func (v View) priorityOf(m Member) int {
	for _, c := range v.Candidates {
		if c.Member == m {
			return c.Priority
		}
	}
	return 0
}

// admissible are the candidates that can be added now, the best first: they
// stream under exactly their name and are close behind.
func (v View) admissible() []Member {
	fit := slices.DeleteFunc(slices.Clone(v.Candidates), func(c Candidate) bool {
		w, ok := sender(v.Sync, c.Member)
		return !ok || w.State != "streaming" || c.NoSync || v.Recorded.InD(c.Member) ||
			c.Member.Node == v.Recorded.Primary.Node || uint64(w.Flush)+v.MaxLag < uint64(v.Sync.Flush)
	})
	slices.SortFunc(fit, func(a, b Candidate) int {
		return cmp.Or(-cmp.Compare(a.Priority, b.Priority), a.Member.Compare(b.Member))
	})
	members := make([]Member, len(fit))
	for i, c := range fit {
		members[i] = c.Member
	}
	return members
}

// absent says of each recorded member that does not stream why it is missed.
func (v View) absent() []string {
	var missed []string
	for _, m := range v.Recorded.Members {
		if !Streams(v.Sync, m) {
			missed = append(missed, fmt.Sprintf("%s does not stream", m))
		}
	}
	return missed
}

// alarms finds walsenders that share a name that looks like a member's.
func alarms(view pg.SyncView) []string {
	count := map[string]int{}
	var found []string
	for _, w := range view.Senders {
		if _, err := ParseMember(w.Name); err != nil {
			continue
		}
		if count[w.Name]++; count[w.Name] == 2 {
			found = append(found, fmt.Sprintf("more than one walsender is called %s, none of them counts", w.Name))
		}
	}
	return found
}
