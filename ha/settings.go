package ha

import (
	"cmp"
	"fmt"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
)

// Settings are what a Node can be told to do otherwise while it runs. All of them
// may differ between the nodes of a cluster for as long as it takes to tell each.
type Settings struct {
	// Mode is the one that the cluster is to have; "" leaves it as it is recorded.
	// The primary records a change and puts it in force as the quorum tracker does
	// all changes: before it acknowledges less, the record claims less.
	Mode quorum.Mode
	// MaxLag bounds the loss in mode async, for elections that this node manages:
	// see ElectorConfig. Zero: DefaultMaxLag.
	MaxLag uint64
	// Relaxed as in NodeConfig, while this node is the primary.
	Relaxed bool
	// Priority and NoFailover are those of this node's next votes.
	Priority   int
	NoFailover bool
	// Exit as in NodeConfig. "" is ExitHandOver.
	Exit Exit
	// Config is published with the node's record: how far it has come with the
	// record of the cluster's configuration. May be nil.
	Config *record.ConfigState
}

// check says what is wrong with the settings.
func (s Settings) check() error {
	switch {
	case s.Mode != "" && s.Mode != quorum.ModeQuorum && s.Mode != quorum.ModeAsync:
		return fmt.Errorf("node: mode %q: this version knows quorum and async", s.Mode)
	case s.Exit != "" && !s.Exit.valid():
		return fmt.Errorf("node: exit %q: want %q, %q or %q", s.Exit, ExitHandOver, ExitStop, ExitKeep)
	}
	return nil
}

// settings are those that the node was made with.
func (cfg NodeConfig) settings() Settings {
	return Settings{
		MaxLag: cfg.MaxLag, Relaxed: cfg.Relaxed, Priority: cfg.Priority, NoFailover: cfg.NoFailover, Exit: cfg.Exit,
	}
}

// Reconfigure replaces the node's settings, before Run or while it runs: from the
// next look on, which comes at once, they are in force. An error says what is wrong
// with them, and that those before stay. Safe for use at any time, but for Events
// and Effects.
func (n *Node) Reconfigure(s Settings) error {
	if err := s.check(); err != nil {
		return err
	}
	s.Exit = cmp.Or(s.Exit, ExitHandOver)
	n.mu.Lock()
	n.wanted = s
	n.mu.Unlock()
	n.poke()
	return nil
}

// settle puts the settings in force that are wanted. It is called by the loop,
// between two decisions.
func (n *Node) settle() {
	n.mu.Lock()
	s := n.wanted
	n.mu.Unlock()
	n.settings = s
	n.elector.cfg.Priority, n.elector.cfg.NoFailover = s.Priority, s.NoFailover
	n.elector.cfg.MaxLag = cmp.Or(s.MaxLag, DefaultMaxLag)
	if n.office != nil && n.office.tracker != nil {
		n.office.tracker.Want(s.Mode, !s.Relaxed)
	}
}

// ConfigInfo is `config` as the node has just read it.
type ConfigInfo struct {
	Record record.Rec[record.Config]
	// Err says why the record that is there cannot be read; Record then has its
	// revision only.
	Err error
}

// tellConfig calls Events.Config when `config` is another one than it was told of,
// and at the first look that a store answers which can be believed.
func (n *Node) tellConfig(v look) {
	if n.cfg.Events.Config == nil || v.storeErr != nil || n.forgotten(v.records) != "" {
		return
	}
	if n.toldConfig && v.records.Config.Revision == n.configRevision {
		return
	}
	n.toldConfig, n.configRevision = true, v.records.Config.Revision
	n.cfg.Events.Config(ConfigInfo{Record: v.records.Config, Err: v.records.ConfigErr})
}
