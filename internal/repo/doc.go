// Package repo tests the repository as a whole: who may import whom, and that
// the public API changes only on purpose. It has no code of its own.
package repo
