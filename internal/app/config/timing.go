package config

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/pghad/pghad/ha"
)

// Timing holds the durations of the protocol.
type Timing struct {
	TTL             time.Duration
	Renew           time.Duration
	Margin          time.Duration
	Observe         time.Duration
	Request         time.Duration
	RemovalDelay    time.Duration
	ElectionTimeout time.Duration
}

// HA is the same as the protocol's pieces take it. How far clocks may drift is
// no key of the configuration.
func (t Timing) HA() ha.Timing {
	return ha.Timing{
		TTL:             t.TTL,
		RenewEvery:      t.Renew,
		Margin:          t.Margin,
		Observe:         t.Observe,
		Request:         t.Request,
		RemovalDelay:    t.RemovalDelay,
		ElectionTimeout: t.ElectionTimeout,
	}.Defaults()
}

func (l *loader) checkTiming() {
	for _, key := range l.keys {
		d, ok := key.field(l.config).(*time.Duration)
		if ok && *d <= 0 && (key.Default != "" || l.isSet(key.Name)) {
			l.at(key.Name, fmt.Sprintf("%s is not above zero; write a time like %s", *d, cmp.Or(key.Default, "24h")))
			return
		}
	}
	err := l.config.Timing.HA().Validate()
	if err == nil {
		return
	}
	for sentence := range strings.SplitSeq(err.Error(), "\n") { // one relation a line
		l.problem(l.timingOrigin(), "timing", sentence)
	}
}

// timingOrigin is where the first of the timing keys is set.
func (l *loader) timingOrigin() origin {
	for _, key := range l.keys {
		if from, ok := l.config.origins[key.Name]; ok && strings.HasPrefix(key.Name, "timing.") {
			return from
		}
	}
	return origin{file: l.opts.File}
}
