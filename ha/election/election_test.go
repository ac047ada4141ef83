package election_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/election"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/pg"
)

// TestDecideScripts runs the cases of testdata/decide.txt.
func TestDecideScripts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/decide.txt")
	require.NoError(t, err)
	cases := 0
	for block := range strings.SplitSeq(string(text), "\n\n") {
		if !strings.HasPrefix(block, "case: ") {
			continue
		}
		cases++
		head, want, ok := strings.Cut(block, "\n-> ")
		require.True(t, ok, block)
		name, body, _ := strings.Cut(strings.TrimPrefix(head, "case: "), "\n")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, strings.TrimSpace(want), election.Decide(view(t, body)).String())
		})
	}
	require.Greater(t, cases, 20)
}

// view reads the lines of a case.
func view(t *testing.T, body string) election.View {
	t.Helper()
	v := election.View{Deadline: 10 * time.Second, TTL: 10 * time.Second}
	for line := range strings.SplitSeq(body, "\n") {
		key, value, ok := strings.Cut(line, ": ")
		require.True(t, ok, line)
		switch key {
		case "recorded":
			v.Recorded = config(t, value)
		case "self":
			v.Self = member(t, value)
		case "mode":
			v.Recorded.Mode = quorum.Mode(value)
			require.NoError(t, v.Recorded.Validate())
		case "present":
			v.Present = strings.Fields(value)
		case "published":
			v.Published = position(t, strings.Fields(value))
		case "max lag":
			_, err := fmt.Sscan(value, &v.MaxLag)
			require.NoError(t, err)
		case "leader":
			v.LeaderPresent = value == "yes"
		case "letting-go":
			v.LettingGo = value
		case "manager":
			v.Manager, v.ManagerIsMe = value, value == "me"
		case "pledges":
			_, err := fmt.Sscanf(value, "%d own, %d highest", &v.Pledge, &v.HighestPledge)
			require.NoError(t, err, line)
		case "overdue":
			var err error
			v.Overdue, err = time.ParseDuration(value)
			require.NoError(t, err)
		case "promised":
			var err error
			v.Promised, err = time.ParseDuration(value)
			require.NoError(t, err)
		case "election":
			parseElection(t, value, &v)
		case "vote":
			v.Votes = append(v.Votes, vote(t, value))
		default:
			t.Fatalf("unknown line %q", line)
		}
	}
	return v
}

func parseElection(t *testing.T, text string, v *election.View) {
	t.Helper()
	for i, part := range strings.Split(text, ", ") {
		words := strings.Fields(part)
		switch {
		case i == 0:
			_, err := fmt.Sscanf(part, "%d %s", &v.ID, &v.Phase)
			require.NoError(t, err)
		case words[0] == "handover":
			v.Handover = true
		case words[0] == "winner":
			v.Winner = member(t, words[1])
		case words[0] == "electorate":
			for _, m := range words[1:] {
				v.Electorate = append(v.Electorate, member(t, m))
			}
		default:
			t.Fatalf("unknown part %q", part)
		}
	}
}

func vote(t *testing.T, text string) election.Vote {
	t.Helper()
	words := strings.Fields(text)
	result := election.Vote{Member: member(t, words[0])}
	if words[1] == "none" {
		return result
	}
	result.Position, result.HasPosition, result.MayWin = position(t, words[1:]), true, true
	for i, word := range words[3:] {
		switch word {
		case "nofailover":
			result.MayWin = false
		case "priority":
			_, err := fmt.Sscan(words[4+i], &result.Priority)
			require.NoError(t, err)
		}
	}
	return result
}

// position reads a timeline and an LSN.
func position(t *testing.T, words []string) pg.Position {
	t.Helper()
	timeline, err := pg.ParseTimeline(words[0])
	require.NoError(t, err)
	lsn, err := pg.ParseLSN(words[1])
	require.NoError(t, err)
	return pg.Position{Timeline: timeline, LSN: lsn}
}

// config reads "a.1 + ANY 1 (b.1, c.1)".
func config(t *testing.T, text string) quorum.Config {
	t.Helper()
	c := quorum.Config{Mode: quorum.ModeQuorum}
	primary, rest, _ := strings.Cut(text, " + ANY ")
	c.Primary = member(t, primary)
	k, list, _ := strings.Cut(strings.TrimSuffix(rest, ")"), " (")
	_, err := fmt.Sscan(k, &c.K)
	require.NoError(t, err)
	if list != "" {
		for m := range strings.SplitSeq(list, ", ") {
			c.Members = append(c.Members, member(t, m))
		}
	}
	require.NoError(t, c.Validate())
	return c
}

func member(t *testing.T, text string) quorum.Member {
	t.Helper()
	m, err := quorum.ParseMember(text)
	require.NoError(t, err)
	return m
}

// TestEveryElectorateMeetsEveryCommit enumerates small clusters: whoever votes,
// a winner that is named holds every commit that w nodes of D hold.
func TestEveryElectorateMeetsEveryCommit(t *testing.T) {
	t.Parallel()
	for n := range 5 {
		for k := range n + 1 {
			c := quorum.Config{Mode: quorum.ModeQuorum, Primary: quorum.Member{Node: "p", Incarnation: "1"}, K: k}
			for i := range n {
				c.Members = append(c.Members, quorum.Member{Node: fmt.Sprintf("s%d", i), Incarnation: "1"})
			}
			eachSubset(n+1, func(copies uint) {
				// The primary holds every commit of its own term.
				if copies&1 == 0 || count(copies) != c.W() {
					return
				}
				eachSubset(n+1, func(voters uint) { checkWinner(t, c, copies, voters) })
			})
		}
	}
}

func checkWinner(t *testing.T, c quorum.Config, copies, voters uint) {
	t.Helper()
	nodes := append([]quorum.Member{c.Primary}, c.Members...)
	var votes []election.Vote
	for i, m := range nodes {
		if voters>>i&1 == 1 {
			position := pg.Position{Timeline: 3, LSN: 100}
			if copies>>i&1 == 1 {
				position.LSN = 200
			}
			votes = append(votes, election.Vote{Member: m, Position: position, HasPosition: true, MayWin: true})
		}
	}
	plan := election.Choose(election.View{Recorded: c, Votes: votes})
	if plan.Action != election.Name {
		require.Less(t, len(votes), c.R(), "%s: %d votes named nobody", c, len(votes))
		return
	}
	for i, m := range nodes {
		if m == plan.Winner {
			require.Equal(t, uint(1), copies>>i&1, "%s: copies %b, voters %b: %s does not hold the commit", c, copies, voters, m)
		}
	}
}

func eachSubset(n int, visit func(uint)) {
	for set := range uint(1) << n {
		visit(set)
	}
}

func count(set uint) int {
	n := 0
	for ; set != 0; set &= set - 1 {
		n++
	}
	return n
}
