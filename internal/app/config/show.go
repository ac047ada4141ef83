package config

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Write writes the configuration in force as a file that means the same, without
// what is not set and without secrets. With explain it has all keys, and says of
// each where its value comes from and what it means.
//
// pending are keys that are said not to be in force until a restart.
func (c *Config) Write(w io.Writer, explain bool, pending ...string) error {
	var text yamlWriter
	for _, key := range Keys() {
		shown, isSet := c.show(key)
		if !isSet && !explain {
			continue
		}
		var comment string
		if explain {
			comment = fmt.Sprintf("%s (%s)", key.Doc, c.source(key))
		}
		if slices.Contains(pending, key.Name) {
			comment = strings.TrimPrefix(comment+"; not in force until a restart of pghad", "; ")
		}
		text.comment(key.Name, comment)
		if isSet && !key.Secret() {
			text.line(key.Name, shown)
		} else {
			text.comment(key.Name, key.Name[strings.LastIndexByte(key.Name, '.')+1:]+": "+shown)
		}
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

// yamlWriter writes keys with dots as nested headings.
type yamlWriter struct {
	strings.Builder
	open []string // the headings that the last line stands under
}

// under opens the headings of a key and returns its indentation and last word.
func (y *yamlWriter) under(name string) (indent, last string) {
	path := strings.Split(name, ".")
	same := 0
	for same < min(len(y.open), len(path)-1) && y.open[same] == path[same] {
		same++
	}
	for ; same < len(path)-1; same++ {
		fmt.Fprintf(y, "%s%s:\n", strings.Repeat("  ", same), path[same])
	}
	y.open = path[:len(path)-1]
	return strings.Repeat("  ", len(path)-1), path[len(path)-1]
}

func (y *yamlWriter) line(name, shown string) {
	indent, last := y.under(name)
	fmt.Fprintf(y, "%s%s: %s\n", indent, last, shown)
}

// comment writes a comment where the key stands, "" is none.
func (y *yamlWriter) comment(name, text string) {
	indent, _ := y.under(name)
	if text != "" {
		fmt.Fprintf(y, "%s# %s\n", indent, text)
	}
}

// source says where the value of a key comes from.
func (c *Config) source(key Key) string {
	from, given := c.origins[key.Name]
	switch {
	case given && from.over != "":
		return from.String() + ", over " + from.over
	case given:
		return from.String()
	case key.Default != "":
		return "default"
	case key.Note != "":
		return "default: " + key.Note
	}
	return "not set"
}

// show is the value of a key as YAML, and whether there is one.
func (c *Config) show(key Key) (string, bool) {
	switch v := key.field(c).(type) {
	case *Secret:
		return v.String(), !v.IsZero()
	case *string:
		return plain(*v), *v != ""
	case *bool:
		return strconv.FormatBool(*v), true
	case *int:
		return strconv.Itoa(*v), true
	case *time.Duration:
		return v.String(), *v != 0
	case *[]string:
		items := make([]string, len(*v))
		for i, item := range *v {
			items[i] = plain(item)
		}
		return "[" + strings.Join(items, ", ") + "]", len(items) > 0
	case *map[string]string:
		var pairs []string
		for _, name := range slices.Sorted(maps.Keys(*v)) {
			pairs = append(pairs, plain(name)+": "+plain((*v)[name]))
		}
		return "{" + strings.Join(pairs, ", ") + "}", len(pairs) > 0
	default:
		panic(fmt.Sprintf("config: no rule to show a field of type %T", v)) // the table is ours
	}
}

// bare are the texts that YAML takes as they stand, wherever they stand.
var bare = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$`)

// plain is a text as YAML.
func plain(text string) string {
	if bare.MatchString(text) {
		return text
	}
	return strconv.Quote(text)
}
