package pg

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// SyncMethod says which standbys of a SyncSetting count.
type SyncMethod string

const (
	// SyncAny is quorum commit: any K of Names.
	SyncAny SyncMethod = "ANY"
	// SyncFirst is priority commit: the first K of Names that are connected.
	SyncFirst SyncMethod = "FIRST"
)

// SyncSetting is a value of synchronous_standby_names. The zero value is the
// empty setting: no commit waits. (ANY 0 is not valid in PostgreSQL.)
type SyncSetting struct {
	Method SyncMethod
	K      int
	Names  []string // application names; compared as PostgreSQL does, without regard to case
}

// Empty reports whether no commit waits.
func (s SyncSetting) Empty() bool { return s.K == 0 || len(s.Names) == 0 }

// Has reports whether name is listed.
func (s SyncSetting) Has(name string) bool {
	return slices.ContainsFunc(s.Names, func(n string) bool { return strings.EqualFold(n, name) })
}

// Equal reports whether both settings mean the same: order of names matters
// for FIRST only.
func (s SyncSetting) Equal(t SyncSetting) bool {
	if s.Empty() || t.Empty() {
		return s.Empty() && t.Empty()
	}
	if s.Method != t.Method || s.K != t.K || len(s.Names) != len(t.Names) {
		return false
	}
	if s.Method == SyncFirst {
		return slices.EqualFunc(s.Names, t.Names, strings.EqualFold)
	}
	return !slices.ContainsFunc(s.Names, func(n string) bool { return !t.Has(n) })
}

// String returns the value as PostgreSQL reads it, names quoted.
func (s SyncSetting) String() string {
	if s.Empty() {
		return ""
	}
	quoted := make([]string, len(s.Names))
	for i, name := range s.Names {
		quoted[i] = `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
	}
	return fmt.Sprintf("%s %d (%s)", s.Method, s.K, strings.Join(quoted, ", "))
}

// ParseSyncSetting reads a value of synchronous_standby_names in every form
// that PostgreSQL 13 to 18 accepts: "", "a, b" (FIRST 1), "2 (a, b)", "FIRST 2
// (a, b)", "ANY 2 (a, b)". The name "*" is kept as it is.
func ParseSyncSetting(text string) (SyncSetting, error) {
	tokens, err := syncTokens(text)
	if err != nil {
		return SyncSetting{}, fmt.Errorf("synchronous_standby_names %q: %w", text, err)
	}
	if len(tokens) == 0 {
		return SyncSetting{}, nil
	}
	setting := SyncSetting{Method: SyncFirst, K: 1}
	rest := tokens
	bare := func(i int, word string) bool {
		return i < len(rest) && !rest[i].quoted && strings.EqualFold(rest[i].text, word)
	}
	// A leading keyword is one only if a count follows: a standby may be called "any".
	if (bare(0, "any") || bare(0, "first")) && len(rest) > 2 && rest[1].isCount() && bare(2, "(") {
		if bare(0, "any") {
			setting.Method = SyncAny
		}
		rest = rest[1:]
	}
	if rest[0].isCount() && bare(1, "(") {
		if setting.K, err = strconv.Atoi(rest[0].text); err != nil || setting.K < 1 {
			return SyncSetting{}, fmt.Errorf("synchronous_standby_names %q: the number of standbys must be at least 1", text)
		}
		if !bare(len(rest)-1, ")") {
			return SyncSetting{}, fmt.Errorf("synchronous_standby_names %q: no closing parenthesis at the end", text)
		}
		rest = rest[2 : len(rest)-1]
	}
	for i, token := range rest {
		if comma := !token.quoted && token.text == ","; comma != (i%2 == 1) || (!token.quoted && strings.ContainsAny(token.text, "()")) {
			return SyncSetting{}, fmt.Errorf("synchronous_standby_names %q: want names separated by commas", text)
		}
		if i%2 == 0 {
			setting.Names = append(setting.Names, token.text)
		}
	}
	if len(rest)%2 == 0 {
		return SyncSetting{}, fmt.Errorf("synchronous_standby_names %q: a name is missing", text)
	}
	return setting, nil
}

type syncToken struct {
	text   string
	quoted bool
}

func (t syncToken) isCount() bool {
	return !t.quoted && t.text != "" && strings.Trim(t.text, "0123456789") == ""
}

// syncTokens cuts text the way syncrep_scanner.l of PostgreSQL does: quoted
// names with "" for a quote, the marks ( ) and comma, and words between.
func syncTokens(text string) ([]syncToken, error) {
	var tokens []syncToken
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case strings.ContainsRune(" \t\n\r\f\v", rune(c)):
			i++
		case c == '(' || c == ')' || c == ',':
			tokens = append(tokens, syncToken{text: string(c)})
			i++
		case c == '"':
			var name strings.Builder
			for i++; ; i++ {
				if i >= len(text) {
					return nil, fmt.Errorf("a quote is not closed")
				}
				if text[i] == '"' {
					if i+1 == len(text) || text[i+1] != '"' {
						break
					}
					i++
				}
				name.WriteByte(text[i])
			}
			i++
			tokens = append(tokens, syncToken{text: name.String(), quoted: true})
		default:
			end := i
			for end < len(text) && !strings.ContainsRune(" \t\n\r\f\v(),\"", rune(text[end])) {
				end++
			}
			tokens = append(tokens, syncToken{text: text[i:end]})
			i = end
		}
	}
	return tokens, nil
}
