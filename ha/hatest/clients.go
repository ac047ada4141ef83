package hatest

import (
	"fmt"
	"time"

	"github.com/pghad/pghad/pg/pgtest"
)

// client inserts rows with ids that nobody else inserts. It finds the primary
// as real ones do: by trying the servers until one takes its insert. A pinned
// one knows a single server.
type client struct {
	sim     *simulation
	name    string
	pinned  string
	session *pgtest.Session
	next    int // of the servers to try
	count   int
	asked   time.Duration // when the commit under way was asked for; meaningful while waits
	waits   bool
	id      digest
}

// clientPatience is after which time a client gives up a commit and its session.
const clientPatience = 10 * time.Second

func (s *simulation) startClients() {
	hosts := s.world.Hosts()
	for n := range s.plan.Clients {
		s.clients = append(s.clients, &client{sim: s, name: fmt.Sprintf("client%d", n+1), next: n % len(hosts)})
	}
	for _, h := range hosts {
		s.clients = append(s.clients, &client{sim: s, name: "pinned-" + h, pinned: h})
	}
	for _, c := range s.clients {
		c.id = newDigest().str(c.name)
		c.sleep()
	}
}

// sleep lets the client go on after its pause.
func (c *client) sleep() {
	c.count++
	w := c.sim.world
	id := c.id.num(uint64(c.count)) //nolint:gosec // not negative
	every := c.sim.plan.Every
	if c.pinned != "" {
		every *= 4
	}
	w.after(c.sim.workload.of("pause", id).between(every/2, every*3/2), id, nil, c.act)
}

func (c *client) act() {
	defer c.sleep()
	c.sim.servers.changed = true
	switch {
	case c.session == nil:
	case c.session.Lost():
		c.leave()
	case c.session.Busy():
		if c.sim.world.now()-c.asked > clientPatience {
			c.session.Close()
			c.leave()
		}
		return
	}
	if c.waits {
		c.waits = false
		c.done(true)
	}
	if c.insert() {
		return
	}
	c.done(false)
}

// leave forgets the session; what was under way is unknown.
func (c *client) leave() {
	c.session = nil
	if c.waits {
		c.waits = false
		c.done(false)
	}
}

// done counts an operation. Pinned clients are refused most of the time.
func (c *client) done(ok bool) {
	if c.pinned != "" {
		return
	}
	c.sim.result.Operations++
	if ok {
		c.sim.result.Succeeded++
	}
}

// insert asks for one more commit, on the server that the client knows or on
// the next one that takes it.
func (c *client) insert() bool {
	id := fmt.Sprintf("%s-%d", c.name, c.count)
	if c.session != nil {
		if c.commit(id) {
			return true
		}
		c.session.Close()
		c.session = nil
	}
	hosts := c.sim.world.Hosts()
	for range hosts {
		host := c.pinned
		if host == "" {
			host = hosts[c.next]
		}
		session, err := c.sim.servers.cluster.Connect(c.name, host)
		if err == nil {
			c.session = session
			if c.commit(id) {
				return true
			}
			session.Close()
			c.session = nil
		}
		if c.pinned != "" {
			break
		}
		c.next = (c.next + 1) % len(hosts)
	}
	return false
}

func (c *client) commit(id string) bool {
	if c.session.Begin() != nil || c.session.Insert(id) != nil {
		return false
	}
	row, err := c.session.Commit()
	if err != nil {
		return false
	}
	c.sim.oracle.rows[c.session.Name()] = row
	c.asked, c.waits = c.sim.world.now(), true
	return true
}

// cancelOn lets the clients on a server cancel what they wait for.
func (s *simulation) cancelOn(host string) {
	for _, c := range s.clients {
		if c.session != nil && c.waits && c.session.Busy() {
			_ = host
			c.session.Cancel()
		}
	}
}
