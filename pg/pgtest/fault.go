package pgtest

import (
	"fmt"

	"github.com/pghad/pghad/pg"
)

// Freeze stops a process as SIGSTOP does: it does nothing until Thaw. The
// process is "postmaster", "startup", "receiver", "checkpointer", "sender NAME"
// (all walsenders of that application_name), or a Session.Name.
func (c *Cluster) Freeze(node, process string) error { return c.setFrozen(node, process, true) }

// Thaw lets a frozen process go on.
func (c *Cluster) Thaw(node, process string) error { return c.setFrozen(node, process, false) }

func (c *Cluster) setFrozen(node, process string, frozen bool) error {
	what := "thaw "
	if frozen {
		what = "freeze "
	}
	return c.do(what+node+"/"+process, func() error {
		p, err := c.process(node)
		if err != nil {
			return err
		}
		if !p.setFrozen(process, frozen) {
			return fmt.Errorf("%s has no process %q", node, process)
		}
		return nil
	})
}

func (p *process) setFrozen(name string, frozen bool) bool {
	switch {
	case name == processPostmaster && p.postmaster.alive:
		p.postmaster.frozen = frozen
		return true
	case name == processCheckpointer && p.checkpointer.alive:
		p.checkpointer.frozen = frozen
		return true
	case name == processStartup && p.startup != nil:
		p.startup.frozen = frozen
		return true
	case name == processReceiver && p.receiver != nil:
		p.receiver.frozen = frozen
		return true
	}
	found := false
	for _, w := range p.senders {
		if "sender "+w.name == name {
			w.frozen, found = frozen, true
		}
	}
	for _, s := range p.sessions {
		if s.label == name {
			s.frozen, found = frozen, true
		}
	}
	return found
}

// process finds the running server of a node.
func (c *Cluster) process(node string) (*process, error) {
	s := c.server(node)
	if s == nil {
		return nil, fmt.Errorf("there is no node %q", node)
	}
	if s.proc == nil {
		return nil, fmt.Errorf("%s: %w", node, pg.ErrNotRunning)
	}
	return s.proc, nil
}

// PauseReplay is pg_wal_replay_pause of an operator, ResumeReplay its end.
func (c *Cluster) PauseReplay(node string) error { return c.setPaused(node, true) }

// ResumeReplay ends a pause of replay.
func (c *Cluster) ResumeReplay(node string) error { return c.setPaused(node, false) }

func (c *Cluster) setPaused(node string, paused bool) error {
	return c.do(fmt.Sprintf("%s: pause of replay %t", node, paused), func() error {
		p, err := c.process(node)
		if err != nil {
			return err
		}
		if p.startup == nil {
			return fmt.Errorf("%s is not in recovery", node)
		}
		p.startup.paused = paused
		return nil
	})
}

// KillPostmaster is kill -9 of the postmaster. Its children go on until each of
// them notices.
func (c *Cluster) KillPostmaster(node string) error {
	return c.do("kill -9 postmaster of "+node, func() error {
		p, err := c.process(node)
		if err != nil {
			return err
		}
		if c.without(RuleOrphans) {
			p.end(pg.ProcessCrashed)
			return nil
		}
		if p.postmaster.alive {
			p.postmaster.alive = false
			p.s.generation++
		}
		return nil
	})
}

// KillBackend is kill -9 of any child. restart_after_crash is off: the
// postmaster ends all others and itself.
func (c *Cluster) KillBackend(node string) error {
	return c.do("kill -9 of a backend of "+node, func() error {
		p, err := c.process(node)
		if err == nil {
			p.end(pg.ProcessCrashed)
		}
		return err
	})
}

// CrashNode is the end of the machine: no process is left, and what was not
// flushed is gone. The agent on it is the caller's to end.
func (c *Cluster) CrashNode(node string) error {
	return c.do("crash of "+node, func() error {
		s := c.server(node)
		if s == nil {
			return fmt.Errorf("there is no node %q", node)
		}
		if s.proc != nil {
			s.proc.end(pg.ProcessCrashed)
		}
		if !c.without(RuleWrittenIsNotDurable) {
			s.disk.wal.loseUnflushed()
		}
		s.ended = pg.ProcessStopped
		return nil
	})
}

// LoseDisk is CrashNode with everything on the disk gone.
func (c *Cluster) LoseDisk(node string) error {
	if err := c.CrashNode(node); err != nil {
		return err
	}
	return c.do("disk of "+node+" is lost", func() error {
		c.server(node).disk = disk{}
		return nil
	})
}

// FillDisk leaves a node the WAL files that it has: no new one can be made. A
// primary that needs one ends (C21).
func (c *Cluster) FillDisk(node string) error {
	return c.do("disk of "+node+" is full", func() error {
		s := c.server(node)
		if s == nil {
			return fmt.Errorf("there is no node %q", node)
		}
		size := c.cfg.SegmentSize
		s.disk.room = s.disk.wal.tail()/size*size + size
		return nil
	})
}

// FreeDisk ends FillDisk.
func (c *Cluster) FreeDisk(node string) error {
	return c.do("disk of "+node+" has room again", func() error {
		s := c.server(node)
		if s == nil {
			return fmt.Errorf("there is no node %q", node)
		}
		s.disk.room = 0
		return nil
	})
}

// Image is a copy of a node's disk.
type Image struct{ disk disk }

// Image copies the disk as it is on stable storage.
func (c *Cluster) Image(node string) (Image, error) {
	var image Image
	err := c.do("image of "+node, func() error {
		s := c.server(node)
		if s == nil {
			return fmt.Errorf("there is no node %q", node)
		}
		image.disk = s.disk.clone()
		image.disk.wal.loseUnflushed()
		return nil
	})
	return image, err
}

// Restore is CrashNode with the disk set back to an image: an undetected
// rollback.
func (c *Cluster) Restore(node string, image Image) error {
	if err := c.CrashNode(node); err != nil {
		return err
	}
	return c.do("disk of "+node+" is rolled back", func() error {
		c.server(node).disk = image.disk.clone()
		return nil
	})
}

// AddReceiver connects a tool like pg_receivewal --synchronous from a node or
// client, under any name: it acknowledges whatever is sent (P12). The returned
// function ends it.
func (c *Cluster) AddReceiver(from, node, name string) (end func(), err error) {
	var made *sender
	err = c.do(from+" receives WAL of "+node+" as "+name, func() error {
		p, err := c.process(node)
		if err != nil {
			return err
		}
		if !p.admits() {
			return fmt.Errorf("%s: %w", node, ErrRefused)
		}
		made = newSender(p, &conn{from: from, to: node}, pg.Upstream{Name: name})
		made.tool = true
		at := p.available()
		made.start(at-at%c.cfg.SegmentSize, p.current())
		p.senders = append(p.senders, made)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func() {
		_ = c.do(from+" ends its receiver of "+node, func() error {
			made.terminated = true
			return nil
		})
	}, nil
}

// WriteHistory writes a timeline history file into a node's pg_wal, as a tool
// or an interrupted take-over leaves one behind (X13, X14).
func (c *Cluster) WriteHistory(node string, t pg.Timeline, h pg.History) error {
	return c.do(fmt.Sprintf("history file of timeline %d on %s", t, node), func() error {
		s := c.server(node)
		if s == nil || !s.disk.present {
			return fmt.Errorf("%s: %w", node, pg.ErrNoData)
		}
		s.disk.histories[t] = h
		return nil
	})
}

// RemoveHistory removes one.
func (c *Cluster) RemoveHistory(node string, t pg.Timeline) error {
	return c.do(fmt.Sprintf("no history file of timeline %d on %s", t, node), func() error {
		s := c.server(node)
		if s == nil || !s.disk.present {
			return fmt.Errorf("%s: %w", node, pg.ErrNoData)
		}
		delete(s.disk.histories, t)
		return nil
	})
}
