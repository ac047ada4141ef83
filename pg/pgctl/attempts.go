package pgctl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/pg"
)

// RejoinPolicy bounds the rewinds and clones that fail one after another: a copy
// that fails for the tenth time costs its source as much as the first one did.
type RejoinPolicy struct {
	// Attempts is how many failed ones there may be Within. Default: 10.
	Attempts int
	// Within is how long a failure counts. Default: 1 h.
	Within time.Duration
	// Then is what happens after that. Default: RejoinClone.
	Then RejoinThen
}

// RejoinThen is what is done when rewinds or clones have failed too often.
type RejoinThen string

const (
	// RejoinClone has a rewind that has failed too often give way to a clone. Clones
	// go on, no more than Attempts of them Within.
	RejoinClone RejoinThen = "clone"
	// RejoinAlert goes on, no more than Attempts Within. Each one that is refused is
	// logged as an error.
	RejoinAlert RejoinThen = "alert"
	// RejoinHold does nothing more until somebody calls ReleaseRejoin.
	RejoinHold RejoinThen = "hold"
)

func (p *RejoinPolicy) complete() error {
	if p.Attempts <= 0 {
		p.Attempts = 10
	}
	if p.Within <= 0 {
		p.Within = time.Hour
	}
	switch p.Then {
	case "":
		p.Then = RejoinClone
	case RejoinClone, RejoinAlert, RejoinHold:
	default:
		return fmt.Errorf("Rejoin.Then %q: want %s, %s or %s", p.Then, RejoinClone, RejoinAlert, RejoinHold)
	}
	return nil
}

// attempts are the rewinds and clones that have failed or were cut off by a crash,
// since the last one that succeeded.
type attempts struct {
	Rewind []time.Time `json:"rewind,omitempty"`
	Clone  []time.Time `json:"clone,omitempty"`
	// Held says that there were too many, and that somebody is to look.
	Held bool `json:"held,omitempty"`
}

func (c *Controller) attemptsNote() note[attempts] {
	return note[attempts]{c.cfg.account, c.statePath("attempts.json")}
}

// of returns those of a kind.
func (a *attempts) of(how string) *[]time.Time {
	if how == copyRewind {
		return &a.Rewind
	}
	return &a.Clone
}

// attempt notes that a rewind or clone begins, durably, or refuses it after too many
// that have failed. What it returns is called with the outcome.
func (c *Controller) attempt(how string) (over func(ctx context.Context, err error) error, err error) {
	before, _, err := c.attemptsNote().read()
	if err != nil {
		return nil, err
	}
	now, policy := c.clock.Now(), c.cfg.Rejoin
	recent := before.of(how)
	for len(*recent) > 0 && now.Sub((*recent)[0]) > policy.Within && !before.Held {
		*recent = (*recent)[1:]
	}
	if len(*recent) >= policy.Attempts || before.Held {
		return nil, c.tooMany(how, before)
	}
	*recent = append(*recent, now)
	if err := c.attemptsNote().write(before); err != nil {
		return nil, err
	}
	return func(ctx context.Context, err error) error {
		switch {
		case err == nil:
			return c.attemptsNote().remove()
		case context.Cause(ctx) != nil:
			// It was called off, which says nothing of the copy.
			*recent = (*recent)[:len(*recent)-1]
			return c.attemptsNote().write(before)
		}
		return nil
	}, nil
}

// tooMany says what happens now.
func (c *Controller) tooMany(how string, before attempts) error {
	policy, count := c.cfg.Rejoin, len(*before.of(how))
	why := fmt.Errorf("%d attempts have failed within %s", count, policy.Within)
	if before.Held {
		why = errors.New("attempts have failed before, and it is held")
	}
	remedy := "find the cause in the log; the next attempt comes when the first of these is older than that"
	switch {
	case policy.Then == RejoinHold:
		remedy = "find the cause in the log, then release it (ReleaseRejoin, or remove " + c.attemptsNote().path + ")"
		if !before.Held {
			before.Held = true
			if err := c.attemptsNote().write(before); err != nil {
				return err
			}
		}
	case policy.Then == RejoinClone && how == copyRewind:
		c.log.Error("rewinds have failed too often: a clone is needed", "attempts", count, "within", policy.Within)
		return &pg.FaultError{Kind: pg.ErrRewindImpossible, Path: c.cfg.DataDir, Err: why, Remedy: "clone it"}
	}
	c.log.Error("copies have failed too often: none is made", "how", how, "attempts", count, "within", policy.Within, "policy", string(policy.Then))
	return &pg.FaultError{Kind: pg.ErrTooManyAttempts, Path: c.cfg.DataDir, Err: why, Remedy: remedy}
}

// ReleaseRejoin forgets the rewinds and clones that have failed, so that they are
// tried again: for a person who has removed the cause.
func (c *Controller) ReleaseRejoin(ctx context.Context) error {
	_, done, err := c.begin(ctx, "release rewinds and clones")
	if err != nil {
		return err
	}
	defer done()
	return c.attemptsNote().remove()
}
