package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Where    string // "FILE:LINE:COLUMN", "FILE" or an environment variable; may be empty
	Key      string // may be empty
	Sentence string // what is wrong, and what to do
}

// String returns "WHERE: KEY: SENTENCE".
func (p Problem) String() string {
	parts := make([]string, 0, 3)
	for _, part := range []string{p.Where, p.Key, p.Sentence} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

// Error holds everything that is wrong, in the order of the file, then of the
// table of Keys. It has at least one problem.
type Error struct{ Problems []Problem }

// Error returns one line per problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// origin is where a value comes from: a place in a file, or a variable.
type origin struct {
	file         string
	line, column int    // 0 if the whole file is meant
	variable     string // or what else is no file
	over         string // where the value would come from otherwise, "" for nowhere
}

func (o origin) String() string {
	switch {
	case o.variable != "":
		return o.variable
	case o.line > 0:
		return fmt.Sprintf("%s:%d:%d", o.file, o.line, o.column)
	}
	return o.file
}
