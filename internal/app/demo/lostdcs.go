package demo

import (
	"context"
	"time"
)

// longOutage is how long the store is away: three times as long as a lease.
const longOutage = 30 * time.Second

// dcsOutage kills etcd, and starts it again on the same data.
func (p *play) dcsOutage(ctx context.Context) error {
	return p.loseDCS(ctx, "etcd is killed", p.etcd.kill, p.etcd.start)
}

// dcsFreeze lets etcd stand still with all its connections. When it goes on, no
// session has been renewed for so long that it ends them all.
func (p *play) dcsFreeze(ctx context.Context) error {
	return p.loseDCS(ctx, "etcd is frozen", p.etcd.freeze, p.etcd.thaw)
}

// loseDCS takes the store away for a while. Clients are to notice nothing, and
// nobody is to take the primary's place.
func (p *play) loseDCS(ctx context.Context, what string, away, back func() error) error {
	before, err := p.view(ctx)
	if err != nil {
		return err
	}
	outage := longOutage
	if p.quick {
		outage = 2 * p.timing.TTL
	}
	p.fault = p.ledger.Now()
	if err := away(); err != nil {
		return err
	}
	p.sayf("%s for %s", what, outage)
	if err := p.wait(ctx, outage); err != nil {
		return err
	}
	if err := back(); err != nil {
		return err
	}
	if err := p.etcd.awaitServing(ctx); err != nil {
		return err
	}
	p.sayf("etcd serves again; %s", p.ledger.Counts())
	if err := p.keep(ctx, before); err != nil {
		return err
	}
	return p.awaitRejoined(ctx)
}
