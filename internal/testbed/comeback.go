package testbed

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// Comeback says how a node came to follow a primary.
type Comeback struct {
	// Steps are what its agent has logged, in order: follow, rewind, clone.
	Steps []string
	// Copied is what the data itself shows, whatever the agent says: it was
	// copied from another node, wholly (clone) or in part (rewind).
	Copied bool
}

// Followed reports whether the node has come back on the data that it had.
func (c Comeback) Followed() bool {
	return !c.Copied && len(c.Steps) > 0 && !slices.ContainsFunc(c.Steps, func(step string) bool { return step != stepFollow })
}

// String tells it in one phrase.
func (c Comeback) String() string {
	text := strings.Join(c.Steps, ", ")
	if text == "" {
		text = "its log says nothing"
	}
	if c.Copied {
		text += "; its data was copied"
	}
	return text
}

const stepFollow = "follow"

// comebackStep matches the line in which an agent says that it begins to follow
// a primary, or to copy one.
var comebackStep = regexp.MustCompile(`\bmsg=(?:(following)\b|rebuilding\b.*\bhow=([a-z]+))`)

// Traces are a node's log and data at one moment. What they show later beyond
// that is a Comeback.
type Traces struct {
	node *clusterNode
	log  int64  // where it ended
	data string // what a copy changes
}

// Traces looks at a node.
func (c *Cluster) Traces(name string) (Traces, error) {
	node, err := c.node(name)
	if err != nil {
		return Traces{}, err
	}
	t := Traces{node: node}
	info, err := os.Stat(node.log())
	switch {
	case err == nil:
		t.log = info.Size()
	case !errors.Is(err, os.ErrNotExist):
		return Traces{}, fmt.Errorf("log of node %s: %w", name, err)
	}
	if t.data, err = copyMark(node.data()); err != nil {
		return Traces{}, fmt.Errorf("data of node %s: %w", name, err)
	}
	return t, nil
}

// Comeback says how the node has come back since the traces were taken.
func (t Traces) Comeback() (Comeback, error) {
	mark, err := copyMark(t.node.data())
	if err != nil {
		return Comeback{}, fmt.Errorf("data of node %s: %w", t.node.name, err)
	}
	back := Comeback{Copied: mark != t.data}
	log, err := os.Open(t.node.log())
	if err != nil {
		return Comeback{}, fmt.Errorf("log of node %s: %w", t.node.name, err)
	}
	defer func() { _ = log.Close() }() // it was only read
	if _, err := log.Seek(t.log, io.SeekStart); err != nil {
		return Comeback{}, fmt.Errorf("log of node %s: %w", t.node.name, err)
	}
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		switch found := comebackStep.FindStringSubmatch(lines.Text()); {
		case found == nil:
		case found[1] != "":
			back.Steps = append(back.Steps, stepFollow)
		default:
			back.Steps = append(back.Steps, found[2])
		}
	}
	if err := lines.Err(); err != nil {
		return Comeback{}, fmt.Errorf("log of node %s: %w", t.node.name, err)
	}
	return back, nil
}

// copyMark is a text that differs after a copy: a clone makes a new directory,
// and pg_rewind and pg_basebackup both leave a backup_label, which PostgreSQL
// renames when it has started from it.
func copyMark(data string) (string, error) {
	var mark strings.Builder
	for _, path := range []string{data, filepath.Join(data, "backup_label"), filepath.Join(data, "backup_label.old")} {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&mark, "%s inode %d", info.Name(), inode(info))
		if !info.IsDir() {
			fmt.Fprintf(&mark, " of %s", info.ModTime())
		}
		mark.WriteString("; ")
	}
	return mark.String(), nil
}

func inode(info os.FileInfo) uint64 {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return stat.Ino
}
