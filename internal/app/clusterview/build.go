package clusterview

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
)

// Read reads the records of a cluster once. Its errors are those of List.
func Read(ctx context.Context, store dcs.Store, namespace, cluster string) (View, error) {
	records, err := ReadRecords(ctx, store, namespace, cluster)
	if err != nil {
		return View{}, err
	}
	return Build(namespace, cluster, records), nil
}

// ReadRecords reads what Build and Explain are made from. Its errors are those
// of List.
func ReadRecords(ctx context.Context, store dcs.Store, namespace, cluster string) (record.Cluster, error) {
	keys, err := record.NewKeys(namespace, cluster)
	if err != nil {
		return record.Cluster{}, fmt.Errorf("records of the cluster: %w", err)
	}
	kvs, err := store.List(ctx, keys.Prefix())
	if err != nil {
		return record.Cluster{}, fmt.Errorf("read the records under %s: %w", keys.Prefix(), err)
	}
	return record.Parse(keys, kvs), nil
}

// Build makes the picture of what the records say.
func Build(namespace, cluster string, records record.Cluster) View {
	v := View{
		Namespace:   namespace,
		Cluster:     cluster,
		SystemID:    records.Initialize.Value,
		Leader:      records.Leader.Holder,
		Timeline:    records.Timeline.Value,
		Quorum:      buildQuorum(records),
		Election:    buildElection(records),
		Switchover:  buildSwitchover(records),
		Maintenance: buildMaintenance(records),
		Nodes:       []Node{},
		Problems:    problems(records),
	}
	if term, err := records.InOffice(); err == nil {
		v.Term, v.Timeline = term.ID, term.Timeline
	} else {
		v.Why = why(records, err)
	}
	if opinion, ok := opinion(records); ok {
		v.Gate = opinion.Gate
		if v.Quorum != nil {
			v.Quorum.Tracker = opinion.Tracker
		}
	}
	for _, name := range names(records) {
		v.Nodes = append(v.Nodes, buildNode(records, name))
	}
	return v
}

// problems are the records that cannot be read.
func problems(records record.Cluster) []string {
	texts := []string{}
	for _, err := range slices.Concat(records.Errs, records.Ignored) {
		texts = append(texts, err.Error())
	}
	if records.SwitchoverErr != nil {
		texts = append(texts, records.SwitchoverErr.Error())
	}
	return texts
}

func why(records record.Cluster, err error) string {
	switch {
	case len(records.Errs) > 0:
		return "records cannot be read"
	case !records.Initialize.Exists() && !records.Quorum.Exists():
		return "the cluster has not been created yet: a node with bootstrap: true does it"
	}
	return err.Error()
}

// opinion is what the present leader says of the cluster. What a former one
// has left there is worth nothing.
func opinion(records record.Cluster) (record.Status, bool) {
	status := records.Status.Value
	ok := records.Leader.Held() && status.Leader == records.Leader.Holder && status.Term == records.Failover.Value.ID
	return status, ok
}

func buildQuorum(records record.Cluster) *Quorum {
	recorded := records.Quorum.Value
	if recorded.Version == 0 {
		return nil
	}
	q := &Quorum{
		Version: recorded.Version,
		Mode:    string(recorded.Mode),
		Primary: Life(recorded.Primary),
		Members: []Life{},
		K:       recorded.K,
		Votes:   recorded.R(),
	}
	for _, m := range recorded.Members {
		q.Members = append(q.Members, Life(m))
	}
	return q
}

func buildElection(records record.Cluster) *Election {
	state := records.Failover.Value
	if state.ID == 0 {
		return nil
	}
	e := &Election{
		ID:      state.ID,
		Phase:   string(state.Phase),
		Open:    state.Open(),
		Manager: state.Manager,
		Winner:  state.Winner.Node,
		Reason:  state.Reason,
		Votes:   []Vote{},
		Missing: []string{},
	}
	if h := state.Handover; h != nil {
		e.Handover = &Handover{From: h.From.Node, Timeline: h.Position.Timeline, LSN: h.Position.LSN}
	}
	voted := map[quorum.Member]bool{}
	for _, vote := range records.ValidVotes() {
		voted[vote.Member] = true
		e.Votes = append(e.Votes, Vote{
			Node:        vote.Member.Node,
			Timeline:    vote.Position.Timeline,
			LSN:         vote.Position.LSN,
			HasPosition: vote.HasPosition,
			Priority:    vote.Priority,
			MayWin:      vote.MayWin,
		})
	}
	for _, m := range state.Electorate {
		if e.Open && e.Handover == nil && !voted[m] {
			e.Missing = append(e.Missing, m.Node)
		}
	}
	return e
}

func buildSwitchover(records record.Cluster) *Switchover {
	phase, asked := records.SwitchoverState.Value, records.Switchover.Value
	if phase == record.SwitchoverNone {
		return nil
	}
	return &Switchover{
		ID:     asked.ID,
		Phase:  string(phase),
		Open:   phase.Open(),
		From:   asked.Hostname,
		To:     asked.Destination,
		Target: asked.Target.Node,
		By:     asked.By,
		At:     asked.At,
		Term:   asked.Term,
		Next:   asked.Next,
		Reason: asked.Reason,
	}
}

func buildMaintenance(records record.Cluster) *Maintenance {
	m := records.Maintenance
	if !m.On() {
		return nil
	}
	built := &Maintenance{
		Mode:    string(m.Mode.Value),
		Leaving: m.Mode.Value == record.MaintenanceLeaving,
		Since:   m.Since.Value,
		Primary: m.Master.Value,
		Waiting: []string{},
	}
	for _, h := range records.Members {
		if !h.Value.Maintenance {
			built.Waiting = append(built.Waiting, h.Name)
		}
	}
	return built
}

// names are all nodes that any record names, sorted.
func names(records record.Cluster) []string {
	found := map[string]bool{}
	for _, h := range records.Members {
		found[h.Name] = true
	}
	for _, host := range records.Alive {
		found[host] = true
	}
	for _, m := range records.QuorumMembers {
		found[m.Node] = true
	}
	if recorded := records.Quorum.Value; recorded.Version > 0 {
		for _, m := range recorded.D() {
			found[m.Node] = true
		}
	}
	if records.Leader.Held() {
		found[records.Leader.Holder] = true
	}
	return slices.Sorted(maps.Keys(found))
}

func buildNode(records record.Cluster, name string) Node {
	said, present := records.Member(name)
	n := Node{
		Name:          name,
		Present:       present,
		Leader:        records.Leader.Held() && records.Leader.Holder == name,
		Role:          "unknown",
		State:         "absent",
		Alive:         slices.Contains(records.Alive, name),
		Timeline:      said.Timeline,
		Received:      said.Received,
		Replayed:      said.Replayed,
		Quorum:        membership(records.Quorum.Value, name, said.Incarnation),
		Incarnation:   said.Incarnation,
		Pledge:        said.Pledge,
		Why:           said.Why,
		Maintenance:   said.Maintenance,
		ConnURL:       said.ConnURL,
		APIURL:        said.APIURL,
		Upstream:      said.Upstream,
		Priority:      said.Priority,
		NoFailover:    said.NoFailover,
		Pending:       append([]string{}, said.Pending...),
		ServerVersion: said.Server,
		Version:       said.Version,
	}
	if present {
		n.Role, n.State = or(said.Role, "unknown"), or(said.State, "unknown")
	}
	if said.Role == "primary" {
		n.Flushed = pg.LSN(said.XlogLSN)
	}
	addOpinion(&n, records, said)
	return n
}

// addOpinion adds what the leader says of a node. Where the node streams the
// leader knows its lag; otherwise it is what the leader had flushed less what
// the node says to have, if both were on the same timeline.
func addOpinion(n *Node, records record.Cluster, said record.Member) {
	status, ok := opinion(records)
	if !ok || n.Leader {
		return
	}
	of := status.Nodes[n.Name]
	n.Sync = of.Sync
	has := max(said.Received, said.Replayed)
	leader, _ := records.Member(status.Leader)
	switch {
	case of.Stream != "" && of.Stream != "none":
		n.Lag = &of.Lag
	case n.Present && has > 0 && said.Timeline == leader.Timeline:
		lag := uint64(0)
		if status.Flushed > has {
			lag = uint64(status.Flushed - has)
		}
		n.Lag = &lag
	}
}

// membership says whether this very life of a node is recorded.
func membership(recorded record.Quorum, name, incarnation string) string {
	if recorded.Version == 0 {
		return NotCounted
	}
	result := NotCounted
	for _, m := range recorded.D() {
		switch {
		case m.Node != name:
		case incarnation != "" && m.Incarnation != incarnation:
			if result == NotCounted {
				result = FormerLife
			}
		case m == recorded.Primary:
			return InQuorumPrimary
		default:
			result = InQuorumMember
		}
	}
	return result
}
