package etcd

import (
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

// route is which member the calls of a store go to: always the same one, in the
// order of the endpoints, until it does not answer or says that it cannot. Then
// it is the next one that is connected, and so on in turn.
//
// gRPC's own way, each call to another member, would meet one that is silent
// with every third call, until pings find it out: that costs more renewals in a
// row than a lease can bear.
type route struct {
	mu       sync.Mutex
	favorite string   // address; empty: the first one
	known    []string // all addresses, in the order of the endpoints
	left     func()   // is called, without mu, when a member has been left
}

type routeKey struct{}

// with makes the calls under ctx go by this route.
func (r *route) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, routeKey{}, r)
}

// choose returns the index of the connected member to ask: the favorite, or
// whichever comes next in the order of the endpoints.
func (r *route) choose(connected []string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := max(slices.Index(r.known, r.favorite), 0)
	for i := range r.known {
		address := r.known[(from+i)%len(r.known)]
		if n := slices.Index(connected, address); n >= 0 {
			r.favorite = address
			return n
		}
	}
	return 0
}

// learn tells the route of the members in their order.
func (r *route) learn(known []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = known
}

// leave makes another member the favorite, if address is it.
func (r *route) leave(address string) {
	r.mu.Lock()
	i := slices.Index(r.known, address)
	leaves := len(r.known) > 1 && i >= 0 && r.favorite == address
	if leaves {
		r.favorite = r.known[(i+1)%len(r.known)]
	}
	r.mu.Unlock()
	if leaves {
		r.left()
	}
}

// disappoints reports whether a call that has ended gives reason to ask another
// member next time: this one was silent, or cannot serve.
func disappoints(ctx context.Context, done balancer.DoneInfo) bool {
	switch status.Code(done.Err) {
	case codes.OK:
		return false
	case codes.Unavailable, codes.Unknown, codes.Internal, codes.DataLoss, codes.Aborted:
		return true
	default:
		return !done.BytesReceived && errors.Is(context.Cause(ctx), context.DeadlineExceeded)
	}
}

// balancerName is how gRPC knows the balancer.
const balancerName = "pghad_etcd"

// serviceConfig chooses it.
const serviceConfig = `{"loadBalancingConfig": [{"` + balancerName + `": {}}]}`

func init() { //nolint:gochecknoinits // gRPC takes balancers by their name, and only here.
	balancer.Register(balancerBuilder{})
}

// balancerBuilder makes balancers that ask the route of each call.
type balancerBuilder struct{}

func (balancerBuilder) Name() string { return balancerName }

func (balancerBuilder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	order := &order{}
	return memberBalancer{
		Balancer: base.NewBalancerBuilder(balancerName, order, base.Config{}).Build(cc, opts),
		order:    order,
	}
}

// memberBalancer keeps a connection to each member.
type memberBalancer struct {
	balancer.Balancer
	order *order
}

// UpdateClientConnState gives the base the addresses that etcd's client resolves
// to endpoints.
func (b memberBalancer) UpdateClientConnState(s balancer.ClientConnState) error {
	s.ResolverState.Addresses = nil
	var known []string
	for _, endpoint := range s.ResolverState.Endpoints {
		for _, address := range endpoint.Addresses {
			s.ResolverState.Addresses = append(s.ResolverState.Addresses, address)
			known = append(known, key(address))
		}
	}
	b.order.set(known)
	return b.Balancer.UpdateClientConnState(s) //nolint:wrapcheck // It is gRPC's own.
}

// key tells members apart that share an address and differ in name.
func key(address resolver.Address) string { return address.Addr + " " + address.ServerName }

// order is the order of the members, and makes pickers of those connected.
type order struct {
	mu    sync.Mutex
	known []string
}

func (o *order) set(known []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.known = known
}

// Build implements base.PickerBuilder.
func (o *order) Build(info base.PickerBuildInfo) balancer.Picker {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := &picker{known: o.known}
	for _, address := range o.known {
		for conn, sub := range info.ReadySCs { // one of them at most has the address
			if key(sub.Address) == address {
				p.connected = append(p.connected, address)
				p.conns = append(p.conns, conn)
			}
		}
	}
	if len(p.conns) == 0 {
		return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
	}
	return p
}

// picker picks among the members that are connected at the moment.
type picker struct {
	known     []string
	connected []string
	conns     []balancer.SubConn
}

func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	r, ok := info.Ctx.Value(routeKey{}).(*route)
	if !ok {
		return balancer.PickResult{SubConn: p.conns[0]}, nil
	}
	r.learn(p.known)
	i := r.choose(p.connected)
	return balancer.PickResult{SubConn: p.conns[i], Done: func(done balancer.DoneInfo) {
		if disappoints(info.Ctx, done) {
			r.leave(p.connected[i])
		}
	}}, nil
}
