package demo

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pghad/pghad/ha/quorum"
)

// Options say what Run does. Zero fields mean the defaults.
type Options struct {
	// Script is the name of a script (Scripts). Empty: a live picture, until the
	// key q or the end of the context.
	Script string
	// JSON makes the result one JSON object on Stdout.
	JSON bool
	// Sabotage plants what the verdict must find (Sabotages). With a script only.
	Sabotage string
	// DCS is what holds the records (DCSKinds). Default: DCSEmbedded, for which nothing
	// has to be installed.
	DCS string
	// DCSMembers is how many servers that consists of: 1 or 3, and 1 for
	// DCSEmbedded. Default: 1.
	DCSMembers int
	// Mode is how commits are made durable, as mode in the configuration. Default:
	// ModeQuorum. In ModeAsync a failover may lose commits; that two nodes accept
	// writes at one time, it may not.
	Mode string
	// Quick gives the nodes short timings (a lease of 3 s). Default: those of the
	// daemon, so that what is measured is what a user gets.
	Quick bool
	// Limit is how long a script may play until it is stuck. Setting up, checking
	// and cleaning up come on top. Default: 50 s, and twice that where the script
	// itself lets time pass.
	Limit time.Duration
	// Keep leaves the directory in place if the verdict is not ok, and says
	// where it is.
	Keep bool

	// Program is the program that runs nodes (`run -c FILE`) and the embedded etcd
	// (`demo-etcd --dir DIR --client-url URL`). Default: this one.
	Program string
	// BinDir holds PostgreSQL's programs. Default: the newest of this machine.
	BinDir string

	Stdin  *os.File  // keys of the live picture. Default: os.Stdin
	Stdout io.Writer // result and live picture. Default: os.Stdout
	Stderr io.Writer // progress. Default: os.Stderr
}

// What Options.Mode can be.
const (
	ModeQuorum = string(quorum.ModeQuorum)
	ModeAsync  = string(quorum.ModeAsync)
)

// What --sabotage plants.
const (
	SabotageLose       = "lose"
	SabotageTwoWriters = "two-writers"
	SabotageFailWrite  = "fail-write" // of scripts that promise that clients notice nothing
)

// Sabotages are the names that Options.Sabotage knows.
func Sabotages() []string { return []string{SabotageFailWrite, SabotageLose, SabotageTwoWriters} }

// withDefaults checks the options and fills what is empty.
func (o Options) withDefaults() (Options, error) {
	if _, known := scripts[o.Script]; o.Script != "" && !known {
		return o, fmt.Errorf("there is no script %q; use one of %s", o.Script, strings.Join(Scripts(), ", "))
	}
	if o.Sabotage != "" && !slices.Contains(Sabotages(), o.Sabotage) {
		return o, fmt.Errorf("there is no sabotage %q; use one of %s", o.Sabotage, strings.Join(Sabotages(), ", "))
	}
	if o.Script == "" && (o.Sabotage != "" || o.JSON) {
		return o, fmt.Errorf("sabotage and JSON belong to a script; add one of %s", strings.Join(Scripts(), ", "))
	}
	if o.Sabotage == SabotageFailWrite && !scripts[o.Script].calm {
		return o, fmt.Errorf("the script %s does not promise that every write succeeds; use --sabotage %s with one that does", o.Script, o.Sabotage)
	}
	if o.DCS == "" {
		o.DCS = DCSEmbedded
	}
	if o.DCSMembers == 0 {
		o.DCSMembers = 1
	}
	if err := checkDCS(o.DCS, o.DCSMembers); err != nil {
		return o, err
	}
	switch o.Mode {
	case "":
		o.Mode = ModeQuorum
	case ModeQuorum, ModeAsync:
	default:
		return o, fmt.Errorf("there is no mode %q; use %s or %s", o.Mode, ModeQuorum, ModeAsync)
	}
	if o.Limit <= 0 {
		o.Limit = scripts[o.Script].limit
	}
	if o.Program == "" {
		program, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("path of this program: %w", err)
		}
		o.Program = program
	}
	if o.Stdin == nil {
		o.Stdin = os.Stdin
	}
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	return o, nil
}

func checkDCS(kind string, members int) error {
	switch {
	case !slices.Contains(DCSKinds(), kind):
		return fmt.Errorf("there is no store %q; use one of %s", kind, strings.Join(DCSKinds(), ", "))
	case members != 1 && members != 3:
		return fmt.Errorf("a store of %d members is not offered; use 1 or 3", members)
	case members != 1 && kind == DCSEmbedded:
		return fmt.Errorf("the embedded store has one member; use %d with %s or %s", members, DCSEtcd, DCSZooKeeper)
	}
	return nil
}
