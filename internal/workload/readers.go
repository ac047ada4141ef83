package workload

import (
	"errors"
	"sync/atomic"
	"time"
)

// ReadersConfig says where is read.
type ReadersConfig struct {
	Target Target
	Run    string        // whose rows
	Every  time.Duration // one read of each node in this time; 20 ms
}

// Readers ask every node for the newest row of a run, whatever the node's role:
// reads that go on while writes do not.
type Readers struct {
	crew
	nodes []string
	good  []atomic.Int64
	bad   []atomic.Int64
}

// ReadCount is how many reads of one node succeeded and failed.
type ReadCount struct {
	Node       string
	Read, Fail int64
}

// StartReaders starts one reader a node. Stop must be called.
func StartReaders(config ReadersConfig) (*Readers, error) {
	if err := config.Target.check(); err != nil {
		return nil, err
	}
	if config.Run == "" {
		return nil, errors.New("workload: readers need the run of a ledger")
	}
	if config.Every <= 0 {
		config.Every = 20 * time.Millisecond
	}
	target := config.Target.withDefaults()
	r := &Readers{
		crew: newCrew(nil), nodes: make([]string, len(target.Nodes)),
		good: make([]atomic.Int64, len(target.Nodes)), bad: make([]atomic.Int64, len(target.Nodes)),
	}
	for i, node := range target.Nodes {
		r.nodes[i] = node.Name
		r.workers.Go(func() { r.read(target, i, config.Run, config.Every) })
	}
	return r, nil
}

// Counts returns the reads so far, in the order of the target's nodes.
func (r *Readers) Counts() []ReadCount {
	counts := make([]ReadCount, len(r.nodes))
	for i, name := range r.nodes {
		counts[i] = ReadCount{Node: name, Read: r.good[i].Load(), Fail: r.bad[i].Load()}
	}
	return counts
}

// Stop ends reading and waits for it.
func (r *Readers) Stop() { _ = r.stop() } // readers note no errors

func (r *Readers) read(target Target, i int, run string, every time.Duration) {
	ctx := r.stopping
	var s *session
	defer func() {
		if s != nil {
			s.close()
		}
	}()
	for {
		var err error
		if s == nil {
			s, err = target.open(ctx, target.Nodes[i], "reader")
		}
		if err == nil {
			_, err = s.query(ctx, `SELECT max(id) FROM `+Table+` WHERE run = $1`, run)
		}
		switch {
		case err == nil:
			r.good[i].Add(1)
		case ctx.Err() != nil:
			return
		default:
			r.bad[i].Add(1)
			if s != nil {
				s.close()
				s = nil
			}
		}
		if pause(ctx, every) != nil {
			return
		}
	}
}
