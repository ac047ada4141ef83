package ha

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/switchover"
	"github.com/pghad/pghad/pg"
)

// SwitchoverRequest is a switchover that somebody asks for.
type SwitchoverRequest struct {
	From string // the primary that is meant; "": whoever leads
	To   string // the node that is to take over; "": the primary chooses the best
	By   string // who asks, for people
}

// SwitchoverPreview is what a switchover would come to if it began now. The
// positions are those that the primary has published last.
type SwitchoverPreview struct {
	From       string
	Term       uint64
	Timeline   pg.Timeline
	Target     string                 // who would take over
	Candidates []switchover.Candidate // all recorded members but the primary, sorted by name
}

// Candidate is the one of that name.
func (p SwitchoverPreview) Candidate(node string) (switchover.Candidate, bool) {
	i := slices.IndexFunc(p.Candidates, func(c switchover.Candidate) bool { return c.Member.Node == node })
	if i < 0 {
		return switchover.Candidate{}, false
	}
	return p.Candidates[i], true
}

// SwitchoverBound is for how long a switchover can be under way: a TTL until
// the primary has taken it up, ElectionTimeout to prepare, half of that to stop,
// and ElectionTimeout again until the target has taken over.
func (o *Operator) SwitchoverBound() time.Duration {
	t := o.cfg.Timing
	return t.TTL + t.ElectionTimeout + t.ElectionTimeout/2 + t.ElectionTimeout
}

// PreviewSwitchover says what a switchover would come to, or that it is not
// possible and why (ErrRefused). It writes nothing.
func (o *Operator) PreviewSwitchover(ctx context.Context, req SwitchoverRequest) (SwitchoverPreview, error) {
	now, err := o.read(ctx)
	if err != nil {
		return SwitchoverPreview{}, fmt.Errorf("switchover: %w", err)
	}
	return previewSwitchover(now, req)
}

// CheckSwitchover says why nobody can ask for a switchover to a node ("": the
// best) now; nil if one can. The error wraps ErrRefused.
func CheckSwitchover(records record.Cluster, to string) error {
	_, err := previewSwitchover(records, SwitchoverRequest{To: to})
	return err
}

func previewSwitchover(c record.Cluster, req SwitchoverRequest) (SwitchoverPreview, error) {
	p := SwitchoverPreview{From: c.Leader.Holder}
	refuse := func(format string, args ...any) (SwitchoverPreview, error) {
		return p, fmt.Errorf("switchover %w: %s", ErrRefused, fmt.Sprintf(format, args...))
	}
	if len(c.Errs) > 0 {
		return refuse("records cannot be read: %v", errors.Join(c.Errs...))
	}
	term, err := c.InOffice()
	switch state := c.SwitchoverState.Value; {
	case err != nil:
		return refuse("%v", err)
	case req.From != "" && req.From != c.Leader.Holder:
		return refuse("the primary is %s, not %s", c.Leader.Holder, req.From)
	case c.SwitchoverErr != nil:
		return refuse("the records of the last one cannot be read: %v", c.SwitchoverErr)
	case state.Open():
		return refuse("there is one already, from %s to %s, and it is %s",
			c.Switchover.Value.Hostname, targetOf(c.Switchover.Value), state)
	case c.Maintenance.On():
		return refuse("maintenance is %s: nobody changes roles", c.Maintenance.Mode.Value)
	}
	p.Term, p.Timeline = term.ID, term.Timeline
	recorded := c.Quorum.Value.Config
	p.Candidates = candidatesOf(c)
	if why := switchover.Impossible(recorded.Primary, p.Candidates, req.To); why != "" {
		return refuse("%s", why)
	}
	present := slices.DeleteFunc(slices.Clone(p.Candidates), func(m switchover.Candidate) bool { return !hasAgent(c, m.Member) })
	target, ok := switchover.Choose(present, req.To)
	if !ok {
		return refuse("%s", noTarget(c, p.Candidates, req.To))
	}
	p.Target = target.Node
	return p, nil
}

// targetOf is who is to take over, in words.
func targetOf(s record.Switchover) string {
	switch {
	case s.Target != (quorum.Member{}):
		return s.Target.Node
	case s.Destination != "":
		return s.Destination
	}
	return "the best"
}

// hasAgent reports whether this life of a node has an agent that publishes it:
// without one nobody would promote the server.
func hasAgent(c record.Cluster, m quorum.Member) bool {
	said, ok := c.Member(m.Node)
	return ok && said.Incarnation == m.Incarnation
}

// candidatesOf are the members as the primary has published last how they
// stream. What a former primary has published is worth nothing.
func candidatesOf(c record.Cluster) []switchover.Candidate {
	var primary pg.Status
	if status := c.Status.Value; status.Leader == c.Leader.Holder && status.Term == c.Failover.Value.ID {
		primary.Flushed, primary.Senders = status.Flushed, c.Replics.Value.Senders
	}
	return Candidates(c, primary)
}

// noTarget says why none of those that could take over can do so now.
func noTarget(c record.Cluster, candidates []switchover.Candidate, to string) string {
	var why []string
	for _, m := range candidates {
		switch node := m.Member.Node; {
		case to != "" && node != to, m.NoFailover, m.BelowFloor:
		case !hasAgent(c, m.Member):
			why = append(why, fmt.Sprintf("the agent of %s does not publish itself", m.Member))
		default:
			why = append(why, fmt.Sprintf("%s does not stream from %s", m.Member, c.Leader.Holder))
		}
	}
	return strings.Join(why, "; ")
}

// ScheduleSwitchover asks the primary to hand over. It returns the id by which
// AwaitSwitchover and CancelSwitchover know this one; with dcs.ErrAmbiguous too,
// for the switchover may have been written then, or may be yet.
func (o *Operator) ScheduleSwitchover(ctx context.Context, req SwitchoverRequest) (id string, err error) {
	if _, err := o.PreviewSwitchover(ctx, req); err != nil { // before anybody is made to wait for the lock
		return "", err
	}
	if id, err = newNonce(o.cfg.Rand); err != nil {
		return "", err
	}
	err = o.writeSwitchover(ctx, req.By, switchoverWrite{
		what:   "ask for a switchover",
		plan:   func(now record.Cluster) (dcs.Txn, error) { return o.scheduling(now, req, id) },
		landed: func(now record.Cluster) bool { return now.Switchover.Value.ID == id },
		lost:   func(_ record.Cluster, untouched bool) bool { return untouched },
	})
	if err == nil {
		o.cfg.Logger.InfoContext(ctx, "switchover asked for", "id", id, "to", req.To, "by", req.By)
		return id, nil
	}
	if errors.Is(err, dcs.ErrAmbiguous) {
		return id, err
	}
	return "", err
}

// scheduling is the transaction that asks for a switchover: nothing that it
// depends on has changed since it was read.
func (o *Operator) scheduling(now record.Cluster, req SwitchoverRequest, id string) (dcs.Txn, error) {
	preview, err := previewSwitchover(now, req)
	if err != nil {
		return dcs.Txn{}, err
	}
	keys := o.cfg.Keys
	asked := record.Switchover{
		Format: record.Format, Hostname: preview.From, Timeline: preview.Timeline, Destination: req.To,
		ID: id, By: req.By, At: o.now(),
	}
	return dcs.Txn{
		If: []dcs.Guard{
			now.SwitchoverState.Guard(keys.SwitchoverState()),
			now.Switchover.Guard(keys.SwitchoverMaster()),
			dcs.Held(keys.Leader(), now.Leader.Created),
			now.Maintenance.Mode.Guard(keys.Maintenance()),
		},
		Then: []dcs.Op{
			{Key: keys.SwitchoverState(), Value: []byte(record.SwitchoverScheduled)},
			{Key: keys.SwitchoverMaster(), Value: record.Encode(asked)},
		},
	}, nil
}

// CancelSwitchover takes a switchover back that the primary has not taken up
// yet; an empty id means whichever that is. ErrRefused says that there is none,
// or that it is under way: then only the primary can end it.
func (o *Operator) CancelSwitchover(ctx context.Context, id, by string) error {
	now, err := o.read(ctx)
	if err != nil {
		return fmt.Errorf("cancel a switchover: %w", err)
	}
	if _, err := o.cancelling(now, id, ""); err != nil {
		return err
	}
	if id == "" {
		id = now.Switchover.Value.ID
	}
	nonce, err := newNonce(o.cfg.Rand)
	if err != nil {
		return err
	}
	reason := "it was cancelled before the primary took it up"
	if by != "" {
		reason += ", by " + by
	}
	reason += " (" + nonce[:8] + ")" // by which this cancellation is known
	err = o.writeSwitchover(ctx, by, switchoverWrite{
		what: "cancel a switchover",
		plan: func(now record.Cluster) (dcs.Txn, error) { return o.cancelling(now, id, reason) },
		landed: func(now record.Cluster) bool {
			return now.SwitchoverState.Value == record.SwitchoverFailed && now.Switchover.Value.Reason == reason
		},
		// What has been cancelled is never taken up.
		lost: func(now record.Cluster, untouched bool) bool { return untouched || now.Switchover.Value.ID == id },
	})
	if err == nil {
		o.cfg.Logger.InfoContext(ctx, "switchover cancelled", "id", id, "by", by)
	}
	return err
}

func (o *Operator) cancelling(now record.Cluster, id, reason string) (dcs.Txn, error) {
	state, asked, keys := now.SwitchoverState.Value, now.Switchover.Value, o.cfg.Keys
	switch {
	case !state.Open() || (id != "" && asked.ID != id):
		return dcs.Txn{}, fmt.Errorf("cancellation %w: there is no such switchover under way", ErrRefused)
	case state != record.SwitchoverScheduled:
		return dcs.Txn{}, fmt.Errorf("cancellation %w: the switchover from %s to %s is %s, only the primary can end it",
			ErrRefused, asked.Hostname, targetOf(asked), state)
	}
	asked.Format, asked.Reason = record.Format, reason
	return dcs.Txn{
		If: []dcs.Guard{now.SwitchoverState.Guard(keys.SwitchoverState()), now.Switchover.Guard(keys.SwitchoverMaster())},
		Then: []dcs.Op{
			{Key: keys.SwitchoverState(), Value: []byte(record.SwitchoverFailed)},
			{Key: keys.SwitchoverMaster(), Value: record.Encode(asked)},
		},
	}, nil
}

// switchoverWrite is a write of the two records of a switchover.
type switchoverWrite struct {
	what   string
	plan   func(record.Cluster) (dcs.Txn, error) // guarded by the records' revisions
	landed func(record.Cluster) bool             // the records show this write, or what has followed it
	// lost reports whether records that do not show the write prove that it never
	// landed; untouched says that they are still those that it was guarded by.
	lost func(now record.Cluster, untouched bool) bool
}

// writeSwitchover carries it out under `switchover/lock`, from records read
// under the lock. When the reply is lost the lock is let go first, by which the
// transaction is guarded: from then on it cannot land any more, and what the
// records show is how it ended.
func (o *Operator) writeSwitchover(ctx context.Context, by string, w switchoverWrite) error {
	for try := 1; ; try++ {
		var guarded dcs.Revision
		released, err := o.underLock(ctx, by, func(ctx context.Context, lock *Lease) error {
			now, err := o.read(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", w.what, err)
			}
			txn, err := w.plan(now)
			if err != nil {
				return err
			}
			guarded = now.SwitchoverState.Revision
			txn.If = append(txn.If, lock.Guard())
			return o.commit(ctx, w.what, txn)
		})
		if released && errors.Is(err, dcs.ErrAmbiguous) {
			err = o.resolve(ctx, w, guarded, err)
		}
		again := errors.Is(err, dcs.ErrConflict) || errors.Is(err, errLost)
		if !again || try == operatorTries || ctx.Err() != nil {
			return err
		}
	}
}

// errLost marks a write without a reply that surely has not landed.
var errLost = fmt.Errorf("%w: neither the write nor its reply arrived", dcs.ErrUnavailable)

// resolve finds out how a write has ended that had no reply and cannot land any
// more: the records show it, or prove that it was lost. Where somebody else has
// written them since, it may have been there.
func (o *Operator) resolve(ctx context.Context, w switchoverWrite, guarded dcs.Revision, unknown error) error {
	now, err := o.read(context.WithoutCancel(ctx))
	switch {
	case err != nil:
		return fmt.Errorf("%w; looking for it: %v", unknown, err) //nolint:errorlint // an unknown outcome is nothing else
	case w.landed(now):
		return nil
	case w.lost(now, now.SwitchoverState.Revision == guarded):
		return fmt.Errorf("%s: %w", w.what, errLost)
	}
	return fmt.Errorf("%w; the records of the switchover have been written by somebody else since", unknown)
}

// SwitchoverProgress is how far a switchover has come.
type SwitchoverProgress struct {
	Phase    record.SwitchoverPhase
	From     string
	Target   string // who takes over, "" until the primary has chosen
	Leader   string // holds `leader` now, "" if nobody does
	Reason   string // what is waited for
	StoreErr string // why the records cannot be read now; the rest is what was read last
}

// SwitchoverResult is how a switchover has ended, or how far it was seen.
type SwitchoverResult struct {
	Phase    record.SwitchoverPhase // done or failed, if it has ended
	From     string
	Target   string
	Reason   string      // why it failed
	Leader   string      // who led then, "" if nobody did
	Term     uint64      // in office; 0 if nobody was, or not yet
	Timeline pg.Timeline // of that term
}

// Done reports whether the target has taken over.
func (r SwitchoverResult) Done() bool { return r.Phase == record.SwitchoverDone }

// RolledBack reports whether it failed and the primary is the one that it was.
func (r SwitchoverResult) RolledBack() bool {
	return r.Phase == record.SwitchoverFailed && r.Leader == r.From && r.Term > 0
}

// AwaitSwitchover follows a switchover to its end, done or failed, and tells
// progress (which may be nil) of every change. A store that cannot be reached
// is waited for.
//
// Errors: the cause of ctx, with what was seen last; ErrOvertaken if the records
// are those of another switchover: how this one has ended is not known then.
func (o *Operator) AwaitSwitchover(ctx context.Context, id string, progress func(SwitchoverProgress)) (SwitchoverResult, error) {
	var (
		told      *SwitchoverProgress
		result    SwitchoverResult
		overtaken bool
	)
	tell := func(p SwitchoverProgress) {
		if progress != nil && (told == nil || *told != p) {
			progress(p)
		}
		told = &p
	}
	err := o.follow(ctx, func(now record.Cluster, err error) bool {
		if err != nil {
			var last SwitchoverProgress
			if told != nil {
				last = *told
			}
			last.StoreErr = err.Error()
			tell(last)
			return false
		}
		if overtaken = now.Switchover.Value.ID != id; overtaken {
			return o.unchanged(ctx, now)
		}
		result = switchoverResult(now)
		tell(SwitchoverProgress{
			Phase: result.Phase, From: result.From, Target: result.Target, Leader: result.Leader, Reason: result.Reason,
		})
		return !result.Phase.Open() && o.unchanged(ctx, now)
	})
	switch {
	case err != nil:
		return result, fmt.Errorf("switchover %s: %w", id, err)
	case overtaken:
		return result, fmt.Errorf("switchover %s: %w: the records are those of another one", id, ErrOvertaken)
	}
	return result, nil
}

func switchoverResult(now record.Cluster) SwitchoverResult {
	asked := now.Switchover.Value
	result := SwitchoverResult{
		Phase: now.SwitchoverState.Value, From: asked.Hostname, Target: asked.Target.Node, Reason: asked.Reason,
		Leader: now.Leader.Holder,
	}
	if term, err := now.InOffice(); err == nil {
		result.Term, result.Timeline = term.ID, term.Timeline
	}
	return result
}

// unchanged reports whether the records of the switchover and the leader's lock
// were at one moment what has been read: a list is no snapshot.
func (o *Operator) unchanged(ctx context.Context, now record.Cluster) bool {
	keys := o.cfg.Keys
	leader := dcs.Guard{Key: keys.Leader(), Absent: true}
	if now.Leader.Held() {
		leader = dcs.Held(keys.Leader(), now.Leader.Created)
	}
	return o.commit(ctx, "compare the records of the switchover", dcs.Txn{If: []dcs.Guard{
		leader,
		now.SwitchoverState.Guard(keys.SwitchoverState()),
		now.Switchover.Guard(keys.SwitchoverMaster()),
		now.Failover.Guard(keys.FailoverState()),
	}}) == nil
}
