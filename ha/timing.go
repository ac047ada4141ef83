package ha

import (
	"errors"
	"fmt"
	"time"
)

// Timing is how long things take, and how long others wait for them. All nodes
// of a cluster should have the same one.
//
// A lease is in force until
//
//	sent + TTL·(1−MaxDrift)/(1+MaxDrift) − Margin
//
// where sent is the moment before its last renewal was sent. What has not
// happened by then must be given up, and Margin later everything that the
// lease protected must be gone.
type Timing struct {
	// TTL is how long the store keeps a session that is not renewed: the
	// longest time for which a dead holder's lock blocks everybody else.
	TTL time.Duration
	// RenewEvery is the time from one renewal to the next. Two of them fit into
	// a lease, so that one lost renewal ends nothing.
	RenewEvery time.Duration
	// Margin is the part of the TTL that is kept back for stopping what the
	// lease protects. It is not slack: it must be as long as a forced stop takes.
	Margin time.Duration
	// Observe is the time from one look at the local server to the next.
	Observe time.Duration
	// Request is the deadline of one call to the store.
	Request time.Duration
	// RemovalDelay is how long a member that has gone is still counted before
	// the quorum is changed.
	RemovalDelay time.Duration
	// ElectionTimeout is how long an election waits for votes.
	ElectionTimeout time.Duration
	// MaxDrift is the tolerated error of a clock's rate, as a fraction: 0.01
	// lets every clock be up to 1 % too fast or too slow.
	MaxDrift float64
}

// The values of Timing.Defaults.
const (
	DefaultTTL             = 10 * time.Second
	DefaultRenewEvery      = 3 * time.Second
	DefaultMargin          = 2 * time.Second
	DefaultObserve         = time.Second
	DefaultRequest         = 2 * time.Second
	DefaultRemovalDelay    = 5 * time.Second
	DefaultElectionTimeout = 10 * time.Second
	DefaultMaxDrift        = 0.01
)

// maxMaxDrift is far beyond any clock; more of it means percent were meant.
const maxMaxDrift = 0.2

// Defaults returns t with each zero field set to its default. Request becomes
// shorter than its default where RenewEvery is.
func (t Timing) Defaults() Timing {
	if t.Request == 0 && t.RenewEvery > 0 {
		t.Request = min(DefaultRequest, t.RenewEvery)
	}
	for _, f := range t.fields() {
		if *f.value == 0 {
			*f.value = f.preset
		}
	}
	if t.MaxDrift == 0 {
		t.MaxDrift = DefaultMaxDrift
	}
	return t
}

// timingField is one duration of a Timing, for what is done to all of them.
type timingField struct {
	name   string
	value  *time.Duration
	preset time.Duration
}

func (t *Timing) fields() []timingField {
	return []timingField{
		{"ttl", &t.TTL, DefaultTTL},
		{"renew", &t.RenewEvery, DefaultRenewEvery},
		{"margin", &t.Margin, DefaultMargin},
		{"observe", &t.Observe, DefaultObserve},
		{"request", &t.Request, DefaultRequest},
		{"removal delay", &t.RemovalDelay, DefaultRemovalDelay},
		{"election timeout", &t.ElectionTimeout, DefaultElectionTimeout},
	}
}

// Validate reports everything that is wrong with t, or nil. The errors name the
// fields and show the arithmetic. A zero field is wrong: see Defaults.
func (t Timing) Validate() error {
	if err := t.validateFields(); err != nil {
		return err
	}
	return errors.Join(t.validateLease(t.TTL), t.validateRequest(), t.validateElection())
}

// validateLocker checks what a Locker uses of t.
func (t Timing) validateLocker() error {
	if err := t.validateFields(); err != nil {
		return err
	}
	return errors.Join(t.validateLease(t.TTL), t.validateRequest())
}

func (t Timing) validateFields() error {
	var errs []error
	for _, f := range t.fields() {
		if *f.value <= 0 {
			errs = append(errs, fmt.Errorf("%s %s is not positive", f.name, *f.value))
		}
	}
	if t.MaxDrift < 0 || t.MaxDrift > maxMaxDrift || t.MaxDrift != t.MaxDrift {
		errs = append(errs, fmt.Errorf("max drift %g is not a fraction from 0 to %g: one percent is 0.01", t.MaxDrift, maxMaxDrift))
	}
	return errors.Join(errs...)
}

// validateLease checks that two renewals fit into a lease of ttl, which is the
// configured one or what a store has granted.
func (t Timing) validateLease(ttl time.Duration) error {
	need := t.Margin + 2*t.RenewEvery
	if need >= ttl {
		return fmt.Errorf("margin %s + 2 × renew %s = %s ≥ ttl %s: a lease would end before its second renewal; raise ttl above %s, or lower renew or margin",
			t.Margin, t.RenewEvery, need, ttl, need)
	}
	if sure := t.sure(ttl); need >= sure {
		return fmt.Errorf("margin %s + 2 × renew %s = %s ≥ %s, which is all that a ttl of %s is worth with clocks that drift by %g %%: raise ttl, or lower renew or margin",
			t.Margin, t.RenewEvery, need, sure, ttl, 100*t.MaxDrift)
	}
	return nil
}

func (t Timing) validateRequest() error {
	if t.Request > t.RenewEvery {
		return fmt.Errorf("request %s > renew %s: one call that hangs would cost more than one renewal; lower request to at most %s",
			t.Request, t.RenewEvery, t.RenewEvery)
	}
	return nil
}

// validateElection checks that what waits for other nodes outlasts their work.
func (t Timing) validateElection() error {
	var errs []error
	if t.Observe >= t.TTL {
		errs = append(errs, fmt.Errorf("observe %s ≥ ttl %s: a dead server would be noticed later than a dead machine; lower observe",
			t.Observe, t.TTL))
	}
	if need := t.Observe + 2*t.Request; need >= t.ElectionTimeout {
		errs = append(errs, fmt.Errorf("observe %s + 2 × request %s = %s ≥ election timeout %s: an election would end before a node has seen it and voted; raise election timeout above %s",
			t.Observe, t.Request, need, t.ElectionTimeout, need))
	}
	return errors.Join(errs...)
}

// sure is how much of ttl has surely not passed at the store while less than
// that has passed here, both clocks being wrong by MaxDrift at most.
func (t Timing) sure(ttl time.Duration) time.Duration {
	return time.Duration(float64(ttl) * (1 - t.MaxDrift) / (1 + t.MaxDrift))
}

// window is how long a lease is in force, counted from before its renewal was
// sent.
func (t Timing) window(ttl time.Duration) time.Duration { return t.sure(ttl) - t.Margin }
