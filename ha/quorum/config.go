package quorum

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pghad/pghad/pg"
)

// Member is one life of a node's data: the node's name and its incarnation.
// A new life of the same node (a fresh clone, a lost pledge file) is another
// member. Its text form, "node.incarnation", is also its application_name.
type Member struct {
	Node        string
	Incarnation string
}

// ParseMember reads the text form. The incarnation is what follows the last dot.
func ParseMember(text string) (Member, error) {
	dot := strings.LastIndexByte(text, '.')
	if dot <= 0 || dot == len(text)-1 {
		return Member{}, fmt.Errorf("member %q: want node.incarnation", text)
	}
	return Member{Node: text[:dot], Incarnation: text[dot+1:]}, nil
}

// String returns "node.incarnation", and "" for nobody.
func (m Member) String() string {
	if m == (Member{}) {
		return ""
	}
	return m.Node + "." + m.Incarnation
}

// MarshalText writes the text form.
func (m Member) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the text form; "" is nobody.
func (m *Member) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*m = Member{}
		return nil
	}
	parsed, err := ParseMember(string(text))
	if err != nil {
		return err
	}
	*m = parsed
	return nil
}

// Compare orders members by node, then incarnation.
func (m Member) Compare(n Member) int { return strings.Compare(m.String(), n.String()) }

// Mode is how commits are made durable.
type Mode string

const (
	ModeQuorum Mode = "quorum" // any K of the members; the promise holds whatever the timing
	ModeSync   Mode = "sync"   // one synchronous member
	ModeAsync  Mode = "async"  // nobody is waited for; loss is bounded and published
)

// Config is the recorded quorum: who holds acknowledged commits. D, the set
// that takes part in elections, is the members and the primary.
type Config struct {
	Mode    Mode     `json:"mode"`
	Primary Member   `json:"primary"`
	Members []Member `json:"members"` // sorted, without the primary
	K       int      `json:"k"`       // acknowledgements that a commit waits for, beside the primary's own
}

// D returns the members and the primary, sorted: who takes part in elections.
func (c Config) D() []Member {
	d := append(slices.Clone(c.Members), c.Primary)
	slices.SortFunc(d, Member.Compare)
	return d
}

// InD reports whether this very life takes part in elections.
func (c Config) InD(m Member) bool { return m == c.Primary || slices.Contains(c.Members, m) }

// W is the number of copies of every acknowledged commit: K and the primary's.
func (c Config) W() int { return c.K + 1 }

// R is the number of fenced votes of D that meet every W copies: |D| - W + 1.
func (c Config) R() int { return len(c.Members) + 1 - c.K }

// Setting is the synchronous setting that the record asks for.
func (c Config) Setting() pg.SyncSetting {
	if c.K == 0 || len(c.Members) == 0 {
		return pg.SyncSetting{}
	}
	names := make([]string, len(c.Members))
	for i, m := range c.Members {
		names[i] = m.String()
	}
	return pg.SyncSetting{Method: pg.SyncAny, K: c.K, Names: names}
}

// After is the record of the winner's term, whose Setting the winner puts in
// force before it promotes: the same D, the winner as primary, the former primary
// as a member with its recorded incarnation, K the same, or lower where fewer
// others are left, but not below 1 unless K was 0.
func (c Config) After(winner Member) Config {
	next := Config{Mode: c.Mode, Primary: winner, K: c.K}
	for _, m := range c.D() {
		if m != winner {
			next.Members = append(next.Members, m)
		}
	}
	next.K = min(next.K, len(next.Members))
	return next
}

// Equal reports whether two records say the same.
func (c Config) Equal(o Config) bool {
	return c.Mode == o.Mode && c.Primary == o.Primary && c.K == o.K && slices.Equal(c.Members, o.Members)
}

// Validate says what is wrong with a record, nil if nothing is.
func (c Config) Validate() error {
	switch {
	case c.Mode != ModeQuorum && c.Mode != ModeSync && c.Mode != ModeAsync:
		return fmt.Errorf("quorum: unknown mode %q", c.Mode)
	case c.Primary == (Member{}):
		return fmt.Errorf("quorum: no primary")
	case c.K < 0 || c.K > len(c.Members):
		return fmt.Errorf("quorum: k = %d of %d members", c.K, len(c.Members))
	case !slices.IsSortedFunc(c.Members, Member.Compare):
		return fmt.Errorf("quorum: members are not sorted")
	case slices.Contains(c.Members, c.Primary):
		return fmt.Errorf("quorum: primary %s is a member too", c.Primary)
	}
	for i := 1; i < len(c.Members); i++ {
		if c.Members[i] == c.Members[i-1] {
			return fmt.Errorf("quorum: member %s twice", c.Members[i])
		}
	}
	return nil
}

// String is for people: "a.1 + ANY 1 (b.2, c.3)".
func (c Config) String() string {
	names := make([]string, len(c.Members))
	for i, m := range c.Members {
		names[i] = m.String()
	}
	return fmt.Sprintf("%s + ANY %d (%s)", c.Primary, c.K, strings.Join(names, ", "))
}
