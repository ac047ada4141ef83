package pgctl

// Effects are called, by name, right before and after each thing that a controller
// does to the world outside its process: a file written or removed, a directory
// renamed, a program run, a signal sent, a statement that changes something. Between
// any two of them the controller may be killed, and the next one continues to the
// same end; tests do that. They may be called from several goroutines.
type Effects struct {
	Before func(name string)
	After  func(name string)
}

// begin marks the beginning of an effect and returns what marks its end.
func (e Effects) begin(name string) (end func()) {
	if e.Before != nil {
		e.Before(name)
	}
	return func() {
		if e.After != nil {
			e.After(name)
		}
	}
}

// run carries out one effect between its two marks.
func (e Effects) run(name string, effect func() error) error {
	defer e.begin(name)()
	return effect()
}
