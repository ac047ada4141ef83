package dcstest

import "time"

// Only limits the harness to some cases, each as Group/Case.
func (h Harness[C]) Only(cases ...string) Harness[C] {
	h.only = cases
	return h
}

// Impatient gives each case little time.
func (h Harness[C]) Impatient() Harness[C] {
	h.patience = 3 * time.Second
	return h
}

// Case is a case of the suite as tests of the suite see it.
type Case struct{ Name, Meaning string }

// Cases are all of them.
func Cases() []Case {
	var all []Case
	for _, g := range groups() {
		for _, c := range g.cases {
			all = append(all, Case{Name: g.name + "/" + c.name, Meaning: c.meaning})
		}
	}
	return all
}
