package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// sayf writes a line for the person who waits to Err: Out is for the result.
func (a *app) sayf(format string, args ...any) { fmt.Fprintf(a.Err, format+"\n", args...) }

// terminal reports whether there is a person to ask.
func (a *app) terminal() bool {
	in, ok := a.In.(*os.File)
	return ok && term.IsTerminal(int(in.Fd()))
}

// mayAsk says that --yes is needed where nobody can be asked.
func (a *app) mayAsk(yes bool) error {
	if yes || a.terminal() {
		return nil
	}
	return &usageError{errors.New("there is no terminal to ask on: write --yes")}
}

// confirm asks on the terminal. nil is a yes; anything else says that nothing was
// changed.
func (a *app) confirm(ctx context.Context, question string) error {
	fmt.Fprintf(a.Err, "%s Type yes: ", question)
	answer := make(chan string, 1)
	go func() { // ends with the process: a terminal cannot be made to give up a read
		line, _ := bufio.NewReader(a.In).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		if strings.EqualFold(strings.TrimSpace(line), "yes") {
			return nil
		}
	case <-ctx.Done():
		a.sayf("")
	}
	return &outcomeError{code: ExitRefused, err: errors.New("not confirmed; nothing was changed")}
}

// endOf is why a wait has ended before what was waited for came.
func endOf(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return errors.New("interrupted")
}

// by is who asks, for the records: other people read it.
func (a *app) by() string {
	name := ""
	for _, variable := range a.Env {
		key, value, _ := strings.Cut(variable, "=")
		if key == "USER" {
			name = value
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return cmp.Or(name, "somebody") + "@" + cmp.Or(host, "somewhere")
}
