package config

import (
	"fmt"
	"time"
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

func (l *loader) checkTiming() {
	for _, key := range l.keys {
		if d, ok := key.field(l.config).(*time.Duration); ok && *d <= 0 {
			l.at(key.Name, fmt.Sprintf("%s is not above zero; write a time like %s", *d, key.Default))
			return
		}
	}
}
