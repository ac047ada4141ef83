package dcs

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxKeyLen is the longest key in bytes that every implementation takes.
const MaxKeyLen = 1024

// ValidateKey reports why key cannot name a key, or nil. The rules are what
// every known store can represent: a path that starts with a slash, has no
// empty segment, no segment "." or "..", and consists of at most MaxKeyLen
// bytes of printable UTF-8. The error wraps ErrInvalid.
func ValidateKey(key string) error {
	if err := validatePath("key", key); err != nil {
		return err
	}
	if strings.HasSuffix(key, "/") {
		return fmt.Errorf("key %q ends with a slash: %w", key, ErrInvalid)
	}
	for segment := range strings.SplitSeq(key[1:], "/") {
		switch segment {
		case "":
			return fmt.Errorf("key %q has an empty segment: %w", key, ErrInvalid)
		case ".", "..":
			return fmt.Errorf("key %q has a segment %q, which some stores resolve: %w", key, segment, ErrInvalid)
		}
	}
	return nil
}

// ValidatePrefix reports why prefix cannot be listed or watched, or nil. A
// prefix is compared with keys byte by byte: it may end in a slash or in the
// middle of a segment, and "/" means everything. The error wraps ErrInvalid.
func ValidatePrefix(prefix string) error {
	if err := validatePath("prefix", prefix); err != nil {
		return err
	}
	if strings.Contains(prefix, "//") {
		return fmt.Errorf("prefix %q has an empty segment: %w", prefix, ErrInvalid)
	}
	return nil
}

func validatePath(kind, path string) error {
	switch {
	case !strings.HasPrefix(path, "/"):
		return fmt.Errorf("%s %q does not start with a slash: %w", kind, path, ErrInvalid)
	case len(path) > MaxKeyLen:
		return fmt.Errorf("%s of %d bytes is longer than %d: %w", kind, len(path), MaxKeyLen, ErrInvalid)
	case !utf8.ValidString(path):
		return fmt.Errorf("%s %q is not valid UTF-8: %w", kind, path, ErrInvalid)
	}
	if i := strings.IndexFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
		return fmt.Errorf("%s %q has an unprintable character at byte %d: %w", kind, path, i, ErrInvalid)
	}
	return nil
}

// Validate reports why no store could carry out the transaction, or nil. It
// finds what is wrong by itself; limits of size and number are the store's.
// The error wraps ErrInvalid.
func (t Txn) Validate() error {
	if len(t.If) == 0 && len(t.Then) == 0 {
		return fmt.Errorf("transaction has neither a guard nor an operation: %w", ErrInvalid)
	}
	for _, g := range t.If {
		if err := g.validate(); err != nil {
			return err
		}
	}
	written := make(map[string]bool, len(t.Then))
	for _, op := range t.Then {
		if err := op.validate(); err != nil {
			return err
		}
		if written[op.Key] {
			return fmt.Errorf("key %q occurs in two operations of one transaction: %w", op.Key, ErrInvalid)
		}
		written[op.Key] = true
	}
	return nil
}

func (g Guard) validate() error {
	if err := ValidateKey(g.Key); err != nil {
		return err
	}
	exists := g.Revision != 0 || g.Created != 0
	switch {
	case g.Absent && exists:
		return fmt.Errorf("guard on %q wants the key both absent and written: %w", g.Key, ErrInvalid)
	case !g.Absent && !exists:
		return fmt.Errorf("guard on %q says neither absent nor a revision: %w", g.Key, ErrInvalid)
	}
	return nil
}

func (o Op) validate() error {
	if err := ValidateKey(o.Key); err != nil {
		return err
	}
	if o.Delete && (len(o.Value) > 0 || o.Session != "") {
		return fmt.Errorf("deletion of %q has a value or a session: %w", o.Key, ErrInvalid)
	}
	return nil
}
