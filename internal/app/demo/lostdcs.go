package demo

import (
	"context"
	"time"
)

// longOutage is how long the store is away: three times as long as a lease.
const longOutage = 30 * time.Second

// dcsOutage kills all servers of the store, and starts them again on the same
// data.
func (p *play) dcsOutage(ctx context.Context) error {
	return p.loseDCS(ctx, "killed", p.servers.kill, p.servers.start)
}

// dcsFreeze lets all servers of the store stand still with all their connections.
// When they go on, no session has been renewed for so long that they end them all.
func (p *play) dcsFreeze(ctx context.Context) error {
	thaw := func(ctx context.Context) error {
		if err := p.servers.thaw(); err != nil {
			return err
		}
		return p.servers.awaitServing(ctx)
	}
	return p.loseDCS(ctx, "frozen", p.servers.freeze, thaw)
}

// loseDCS takes the store away for a while. Clients are to notice nothing, and
// nobody is to take the primary's place.
func (p *play) loseDCS(ctx context.Context, how string, away func() error, back func(context.Context) error) error {
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
	p.sayf("%s is %s for %s", p.servers.title(), how, outage)
	if err := p.wait(ctx, outage); err != nil {
		return err
	}
	if err := back(ctx); err != nil {
		return err
	}
	p.sayf("%s serves again; %s", p.servers.title(), p.ledger.Counts())
	if err := p.keep(ctx, before); err != nil {
		return err
	}
	return p.awaitRejoined(ctx)
}
