package quorum

import (
	"slices"

	"github.com/pghad/pghad/pg"
)

// Checkpoints is how many CHECKPOINTs must return until backends surely wait: one may
// have been under way when the setting changed, the next one begins with a
// checkpointer that has re-read it.
const Checkpoints = 2

// Progress is what the caller remembers between looks. Its zero value is right
// after a start, a restart of the server, or when nothing is certain; the
// methods keep it. It is a value.
type Progress struct {
	// Setting is what this caller put in force last and a new session showed;
	// meaningless unless Wrote.
	Setting pg.SyncSetting
	Wrote   bool
	// Proves says that Setting was chosen so that adoption shows.
	Proves bool
	// Before are names that a walsender may still believe to be listed.
	Before []string
	// Sound says that what was acknowledged has the copies that the record
	// claims. It is not while an unsafe setting is being mended.
	Sound bool
	// Armed says that the CHECKPOINTs have returned while a setting was in force
	// that is not empty: backends wait.
	Armed bool
	// Barrier is the flush position read after adoption of Setting; 0 before.
	Barrier pg.LSN
}

// ours reports whether what is in force is what this caller put in force. Then
// no other value is pending in the server's configuration files: an earlier
// tracker may have written one without having it reloaded.
func (v View) ours() bool {
	return v.Progress.Wrote && v.Progress.Setting.Equal(v.Sync.Setting)
}

// sound is Progress.Sound, or what a new caller may conclude: every unfinished
// mending is marked by a probe, and the record never claims acknowledgements
// that were not waited for.
func (v View) sound() bool {
	if v.ours() {
		return v.Progress.Sound
	}
	return v.Recorded.K > 0 && Safe(v.Recorded, v.Sync.Setting) && !IsProbe(v.Sync.Setting)
}

// settled reports whether it is proven that everything acknowledged until now,
// and from now on, has the copies that c claims.
func (v View) settled(c Config) bool {
	p := v.Progress
	if !v.ours() || !p.Proves || p.Barrier == 0 || !covers(v.Sync.Setting, c) {
		return false
	}
	passed, _ := Passed(v.Sync, c, p.Barrier)
	return passed
}

// After is the progress after step, which Next returned for v, has been carried
// out. For ReadBarrier it is Progress.Read that counts.
func (v View) After(step Step) Progress {
	p := v.Progress
	switch step.Kind {
	case WriteSetting:
		return v.afterSetting(step)
	case WriteRecord:
		p.Sound = p.Sound || step.Record.K > 0 && v.settled(step.Record)
	case Checkpoint:
		p.Armed = true
	default:
	}
	return p
}

func (v View) afterSetting(step Step) Progress {
	before := v.Sync.Setting
	next := Progress{Setting: step.Setting, Wrote: true, Proves: step.Proves, Before: slices.Clone(before.Names)}
	if v.ours() && v.Progress.Barrier == 0 {
		next.Before = append(next.Before, v.Progress.Before...)
	}
	slices.Sort(next.Before)
	next.Before = slices.Compact(next.Before)
	if before.Empty() || step.Setting.Empty() {
		return next
	}
	next.Sound = Safe(v.Recorded, before) && (v.sound() || v.Recorded.K > 0 && v.settled(v.Recorded))
	if v.ours() {
		next.Armed = v.Progress.Armed
	}
	return next
}

// Read is the progress after ReadBarrier: view must have been taken after Next
// had asked for it. A view that shows another setting changes nothing.
func (p Progress) Read(view pg.SyncView) Progress {
	if p.Wrote && p.Setting.Equal(view.Setting) {
		p.Barrier = view.Flush
	}
	return p
}
