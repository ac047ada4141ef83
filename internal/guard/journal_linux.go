package guard

import (
	"fmt"
	"io"
	"os"
	"time"
)

// Bounds of what is kept of messages that nobody takes.
const (
	journalLines = 64
	journalFlush = time.Second // for the last of them
)

// journal writes messages without ever waiting: the disk that holds the log may be
// what has failed. What it cannot take is lost.
type journal struct {
	lines chan string
	done  chan struct{}
}

func newJournal(w io.Writer) *journal {
	j := &journal{lines: make(chan string, journalLines), done: make(chan struct{})}
	go func() { // it ends at close, or with the process
		defer close(j.done)
		for line := range j.lines {
			_, _ = io.WriteString(w, line) // nobody is there to complain to
		}
	}()
	return j
}

func (j *journal) say(text string) {
	line := fmt.Sprintf("%s pghad-guard[%d]: %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), os.Getpid(), text)
	select {
	case j.lines <- line:
	default:
	}
}

// close waits for the last messages to be written, but not long.
func (j *journal) close() {
	close(j.lines)
	select {
	case <-j.done:
	case <-time.After(journalFlush):
	}
}
