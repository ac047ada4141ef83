package ha

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/timectx"
)

// ConfigView is the record of the cluster's configuration, with what each node that
// publishes itself has made of it.
type ConfigView struct {
	Record record.Rec[record.Config]
	// Err says why the record that is there cannot be read; Record then has its
	// revision only. record.ErrNewer: it is for a newer version.
	Err   error
	Nodes []ConfigNode // sorted by name
}

// ConfigNode is one node as it stands to the record. Its JSON is stable.
type ConfigNode struct {
	Name string `json:"name"`
	record.ConfigState
	// PendingRestart are PostgreSQL's settings that wait for a restart of the server.
	PendingRestart []string `json:"pending_restart,omitempty"`
}

// ConfigOf is the configuration in records that were read.
func ConfigOf(now record.Cluster) ConfigView {
	view := ConfigView{Record: now.Config, Err: now.ConfigErr}
	for _, h := range now.Members {
		node := ConfigNode{Name: h.Name, PendingRestart: h.Value.Pending}
		if h.Value.Config != nil {
			node.ConfigState = *h.Value.Config
		}
		view.Nodes = append(view.Nodes, node)
	}
	return view
}

// next is the version of the record that is written now: above every one that a
// node goes by, also if the store has been restored to an older one since.
func (v ConfigView) next() uint64 {
	highest := v.Record.Value.Version
	for _, n := range v.Nodes {
		highest = max(highest, n.Version)
	}
	return highest + 1
}

// Config reads the record of the cluster's configuration. A record that cannot be
// read is told in the view.
func (o *Operator) Config(ctx context.Context) (ConfigView, error) {
	now, err := o.read(ctx)
	if err != nil {
		return ConfigView{}, fmt.Errorf("configuration: %w", err)
	}
	return ConfigOf(now), nil
}

// WriteConfig replaces all values of the record that was read as read.Record, and
// returns what it has written. Whether the values mean anything is the caller's to
// check. It is not for records of a newer format: ErrRefused.
//
// dcs.ErrConflict: somebody else has written the record since it was read, and
// nothing was changed. dcs.ErrAmbiguous: nobody can tell yet.
func (o *Operator) WriteConfig(ctx context.Context, read ConfigView, values map[string]json.RawMessage, by string) (record.Config, error) {
	const what = "write the configuration"
	if errors.Is(read.Err, record.ErrNewer) {
		return record.Config{}, fmt.Errorf("%s: %w: %w", what, ErrRefused, read.Err)
	}
	nonce, err := newNonce(o.cfg.Rand)
	if err != nil {
		return record.Config{}, fmt.Errorf("%s: %w", what, err)
	}
	next := record.Config{
		Format: record.Format, Version: read.next(), Nonce: nonce, Changed: o.cfg.Wall().UTC(), By: by, Values: maps.Clone(values),
	}
	key := o.cfg.Keys.Config()
	txn := dcs.Txn{
		If:   []dcs.Guard{read.Record.Guard(key)},
		Then: []dcs.Op{{Key: key, Value: record.Encode(next)}},
	}
	var unknown error
	for range operatorTries {
		err := o.commit(ctx, what, txn)
		switch {
		case err == nil:
			return next, nil
		case errors.Is(err, dcs.ErrConflict) && unknown == nil:
			return record.Config{}, err
		case errors.Is(err, dcs.ErrConflict): // by the one whose reply was lost, or by somebody else
			return next, o.ownConfig(ctx, next, unknown)
		case errors.Is(err, dcs.ErrAmbiguous):
			unknown = err
		case unknown == nil:
			return record.Config{}, err
		}
		if timectx.Sleep(ctx, o.cfg.Clock, o.cfg.Timing.Request/4) != nil {
			break
		}
	}
	return next, unknown
}

// ownConfig says whether a record of which the reply was lost was written. It can
// no longer land.
func (o *Operator) ownConfig(ctx context.Context, wrote record.Config, unknown error) error {
	now, err := o.read(ctx)
	if err != nil {
		return unknown
	}
	switch got := now.Config.Value; {
	case got.Nonce == wrote.Nonce && got.Version == wrote.Version:
		return nil
	case got.Version > wrote.Version:
		return fmt.Errorf("%w; the record is version %d now", unknown, got.Version) // it may have been in between
	}
	return fmt.Errorf("write the configuration: %w", dcs.ErrConflict)
}

// AwaitConfig waits until all nodes that publish themselves go by the version of
// the record, and tells progress (which may be nil) of who is waited for. A node
// that says why it cannot ends the wait: see ConfigNode.Problem.
//
// Errors, with what was seen last: the cause of ctx; ErrOvertaken if the record is
// a newer version.
func (o *Operator) AwaitConfig(ctx context.Context, version uint64, progress func(waiting []string)) (ConfigView, error) {
	var (
		view ConfigView
		last []string
	)
	err := o.follow(ctx, func(now record.Cluster, err error) bool {
		if err != nil {
			return false
		}
		view = ConfigOf(now)
		waiting := view.Waiting(version)
		if progress != nil && !slices.Equal(waiting, last) {
			progress(waiting)
		}
		last = waiting
		return len(waiting) == 0 || view.Record.Value.Version > version
	})
	switch {
	case err != nil:
		return view, fmt.Errorf("wait for the nodes: %w", err)
	case view.Record.Value.Version > version:
		return view, fmt.Errorf("wait for the nodes: %w: the record is version %d now", ErrOvertaken, view.Record.Value.Version)
	}
	return view, nil
}

// Waiting are the nodes that do not yet go by a version of the record, and have not
// said why.
func (v ConfigView) Waiting(version uint64) []string {
	var waiting []string
	for _, n := range v.Nodes {
		if n.Version < version && !strings.HasPrefix(n.Problem, versionText(version)) {
			waiting = append(waiting, n.Name)
		}
	}
	return waiting
}

// versionText begins what a node says of a version that it does not go by.
func versionText(version uint64) string { return fmt.Sprintf("version %d: ", version) }

// ConfigProblem words why a node does not go by a version of the record, for
// record.ConfigState.
func ConfigProblem(version uint64, why string) string { return versionText(version) + why }
