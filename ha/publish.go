package ha

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/role"
	"github.com/pghad/pghad/pg"
)

// published is what the node has last written of itself and of the cluster, to
// write only what has changed, and not more often than once per Observe; and not more
// often than it renews its lease if positions have moved a little, as they do on a
// server that nobody uses.
type published struct{ member, leader publication }

// publication is what was written, or would be.
type publication struct {
	body []byte
	rest []byte // all but the positions
	lsn  pg.LSN
	at   time.Time // when it was written
}

// aLittle is how far positions move without being news.
const aLittle = 64 << 10

// due reports whether it is time to write next in place of last.
func (n *Node) due(last, next publication) bool {
	every := n.cfg.Timing.Observe
	if bytes.Equal(last.rest, next.rest) && max(last.lsn, next.lsn)-min(last.lsn, next.lsn) < aLittle {
		every = max(every, n.cfg.Timing.RenewEvery)
	}
	return n.cfg.Clock.Now().Sub(last.at) >= every
}

// keepAlive holds alive/<host> while the server lives, and publishes
// members/<host> under the node's session.
func (n *Node) keepAlive(ctx context.Context, v look) {
	if v.storeErr != nil {
		return
	}
	if n.alive != nil && n.alive.Check() != nil {
		n.alive.yield()
		n.alive = nil
	}
	live := v.server.Health == pg.HealthAlive
	switch {
	case live && n.alive == nil:
		asked, cancel := n.request(ctx, "taking alive/"+n.cfg.Name)
		lease, err := n.locker.TryAcquire(asked, n.keys.Alive(n.cfg.Name), []byte(n.cfg.Name))
		cancel()
		if err == nil {
			n.alive = lease
		}
	case !live && v.stopped():
		n.dropAlive(ctx)
	}
	if err := n.publishMember(ctx, v); err != nil {
		n.cfg.Logger.DebugContext(ctx, "own record not published", "error", err)
	}
}

func (n *Node) dropAlive(ctx context.Context) {
	if n.alive != nil {
		n.release(ctx, n.alive)
		n.alive = nil
	}
}

// joinMembership takes quorum/members/<host>: the tracker may count this life.
func (n *Node) joinMembership(ctx context.Context) {
	if n.membership != nil {
		if n.membership.Check() == nil {
			return
		}
		n.membership.yield()
	}
	asked, cancel := n.request(ctx, "taking quorum/members/"+n.cfg.Name)
	defer cancel()
	lease, err := n.locker.TryAcquire(asked, n.keys.QuorumMember(n.cfg.Name), []byte(n.self().String()))
	if err != nil {
		n.cfg.Logger.DebugContext(ctx, "membership not taken", "error", err)
		return
	}
	n.membership = lease
}

func (n *Node) dropMembership(ctx context.Context) {
	if n.membership != nil {
		n.release(ctx, n.membership)
		n.membership = nil
	}
}

func (n *Node) release(ctx context.Context, lease *Lease) {
	asked, cancel := n.request(context.WithoutCancel(ctx), "releasing "+lease.Key())
	defer cancel()
	if err := lease.Release(asked); err != nil {
		n.cfg.Logger.DebugContext(ctx, "lock not released, it will expire", "key", lease.Key(), "error", err)
	}
}

// memberNews is what the node would write of itself.
type memberNews struct {
	publication
	member record.Member
	urgent bool // others wait for it
	due    bool
}

// ownNews looks whether the record of this node has to be written.
func (n *Node) ownNews(v look) memberNews {
	local, held := n.memory.State(), v.server.Held()
	member := record.Member{
		ConnURL:  (&url.URL{Scheme: "postgres", Host: net.JoinHostPort(n.cfg.Host, strconv.Itoa(n.cfg.Port)), Path: "/postgres"}).String(),
		APIURL:   n.cfg.APIURL,
		Role:     n.publicRole(v),
		State:    publicState(v),
		XlogLSN:  uint64(held.LSN),
		Timeline: held.Timeline, Received: v.server.Received, Replayed: v.server.Replayed,
		Format: record.Format, Version: n.cfg.Version, Server: v.server.Version,
		Pledge: local.Pledge, Incarnation: local.Incarnation, Why: n.status.Why,
		Priority: n.settings.Priority, NoFailover: n.settings.NoFailover, Pending: v.server.Pending, Config: n.settings.Config,
		Rejoin: n.question.nonce, Upstream: n.following.upstream.Host, Maintenance: n.keepsToMaintenance(v),
	}
	if local.Floor != (pg.Position{}) {
		member.Floor = &local.Floor
	}
	news := memberNews{member: member, publication: publication{
		body: record.Encode(member), rest: record.Encode(member.Standing()),
		lsn: max(held.LSN, v.server.Received, v.server.Replayed),
	}}
	before, there := v.records.Member(n.cfg.Name)
	if there && bytes.Equal(news.body, n.published.member.body) {
		return news
	}
	// What others wait for is published at once, positions in their time. A
	// record that is not there has gone with an earlier session.
	news.urgent = !there || before.Role != member.Role || before.State != member.State || before.Rejoin != member.Rejoin ||
		before.Incarnation != member.Incarnation || before.Maintenance != member.Maintenance || before.Pledge != member.Pledge
	news.due = news.urgent || n.due(n.published.member, news.publication)
	return news
}

// writeMember adds the writing of members/<host> to a transaction.
func (n *Node) writeMember(ctx context.Context, v look, news memberNews, txn *dcs.Txn) error {
	session, err := n.locker.Session(ctx)
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	news.member.Sampled = n.cfg.Wall().UTC()
	key := n.keys.Member(n.cfg.Name)
	guard := dcs.Guard{Key: key, Absent: true}
	for _, h := range v.records.Members {
		if h.Name == n.cfg.Name {
			guard = h.Guard(key)
		}
	}
	txn.If = append(txn.If, guard)
	txn.Then = append(txn.Then, dcs.Op{Key: key, Value: record.Encode(news.member), Session: session})
	return nil
}

// publishMember writes members/<host>. What nobody waits for, a primary that serves
// writes with its opinion of the cluster: see publishAsLeader.
func (n *Node) publishMember(ctx context.Context, v look) error {
	news := n.ownNews(v)
	serves := n.office != nil && v.primary() && v.server.GateOpen
	if !news.due || serves && !news.urgent && n.cfg.Clock.Since(n.published.member.at) < 2*n.cfg.Timing.RenewEvery {
		return nil
	}
	asked, cancel := n.request(ctx, "publishing members/"+n.cfg.Name)
	defer cancel()
	var txn dcs.Txn
	if err := n.writeMember(asked, v, news, &txn); err != nil {
		return err
	}
	if _, err := n.cfg.Store.Commit(asked, txn); err != nil {
		return fmt.Errorf("commit members/%s: %w", n.cfg.Name, err)
	}
	n.published.member = news.publication
	n.published.member.at = n.cfg.Clock.Now()
	return nil
}

func (n *Node) publicRole(v look) string {
	switch {
	case v.data != role.DataPresent || n.memory.State().Creating:
		return "uninitialized"
	case n.office != nil && v.primary():
		return "primary"
	default:
		return "replica"
	}
}

func publicState(v look) string {
	switch {
	case v.standby() && v.server.Streams():
		return "streaming"
	case v.server.Health == pg.HealthUnknown:
		return "unknown"
	default:
		return string(v.server.Process)
	}
}

// publishAsLeader writes status and replics_info when they have changed, at
// most once per Observe, except that an answer is given at once. What the node has to
// say of itself goes with them.
func (n *Node) publishAsLeader(ctx context.Context, v look) error {
	now, o := n.cfg.Clock.Now(), n.office
	status := record.Status{
		Format: record.Format, Term: o.Term, Leader: n.cfg.Name, Flushed: v.server.Flushed,
		Gate: gateOf(v, n.why), Tracker: o.tracking, Nodes: n.opinions(v), Spared: map[string]string{},
	}
	for host, question := range o.spared {
		if n.isSpared(v, host) {
			status.Spared[host] = question.nonce
		}
	}
	next := publication{
		body: append(record.Encode(status), record.Encode(v.server.Senders)...),
		rest: append(record.Encode(status.Standing()), record.Encode(record.ReplicsInfo{Senders: v.server.Senders}.Standing())...),
		lsn:  v.server.Flushed, at: now,
	}
	answered := false
	for host, nonce := range status.Spared {
		answered = answered || v.records.Status.Value.Spared[host] != nonce
	}
	own := n.ownNews(v)
	due := !bytes.Equal(next.body, n.published.leader.body) && (answered || n.due(n.published.leader, next))
	if !due && !own.due {
		return nil
	}
	replics := record.ReplicsInfo{Format: record.Format, Sampled: n.cfg.Wall().UTC(), Senders: v.server.Senders}
	txn := dcs.Txn{
		If: []dcs.Guard{v.records.Status.Guard(n.keys.Status()), v.records.Replics.Guard(n.keys.ReplicsInfo())},
		Then: []dcs.Op{
			{Key: n.keys.Status(), Value: record.Encode(status)},
			{Key: n.keys.ReplicsInfo(), Value: record.Encode(replics)},
		},
	}
	for _, vote := range v.records.Votes { // of elections that have ended
		if vote.ID < o.Term && len(txn.Then) < 32 {
			txn.Then = append(txn.Then, dcs.Op{Key: vote.Key, Delete: true})
		}
	}
	if own.due {
		asked, cancel := n.request(ctx, "the session of the own record")
		err := n.writeMember(asked, v, own, &txn)
		cancel()
		if err != nil {
			return err
		}
	}
	if err := n.commitAsLeader(ctx, "office/publish", txn); err != nil {
		return err
	}
	if own.due {
		n.published.member = own.publication
		n.published.member.at = now
	}
	n.published.leader = next
	return nil
}

// gateOf says whether clients are admitted, and what is waited for.
func gateOf(v look, why string) string {
	if v.server.GateOpen {
		return "open"
	}
	return "closed: " + why
}

func (n *Node) opinions(v look) map[string]record.NodeStatus {
	nodes := map[string]record.NodeStatus{n.cfg.Name: {Health: "alive", Stream: "none"}}
	for _, h := range v.records.Members {
		if h.Name == n.cfg.Name {
			continue
		}
		opinion := record.NodeStatus{Health: "unknown", Stream: "none"}
		if slices.Contains(v.records.Alive, h.Name) {
			opinion.Health = "alive"
		}
		for _, s := range v.server.Senders {
			member, err := quorum.ParseMember(s.Name)
			if err != nil || member.Node != h.Name {
				continue
			}
			opinion.Stream, opinion.Sync = s.State, s.Sync
			if s.Flush < v.server.Flushed {
				opinion.Lag = uint64(v.server.Flushed - s.Flush)
			}
		}
		nodes[h.Name] = opinion
	}
	return nodes
}

// keepSlots keeps a slot for every other node. A slot that cannot be made now is
// made at the next look.
func (n *Node) keepSlots(ctx context.Context, v look) {
	if err := n.cfg.Postgres.EnsureSlots(ctx, n.slots(v)); err != nil && ctx.Err() == nil {
		n.cfg.Logger.WarnContext(ctx, "slots", "error", err)
	}
}

// slots are the physical slots that this server keeps: one for every other node
// that is recorded or publishes itself, advanced to what that node has flushed.
func (n *Node) slots(v look) []pg.Slot {
	var hosts []string
	for _, m := range v.recorded().D() {
		hosts = append(hosts, m.Node)
	}
	for _, h := range v.records.Members {
		hosts = append(hosts, h.Name)
	}
	slices.Sort(hosts)
	var slots []pg.Slot
	for _, host := range slices.Compact(hosts) {
		if host == n.cfg.Name || host == "" {
			continue
		}
		slot := pg.Slot{Name: record.SlotName(host)}
		if member, ok := v.records.Member(host); ok {
			slot.Advance = pg.LSN(member.XlogLSN)
		}
		slots = append(slots, slot)
	}
	return slots
}
