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
func (c *Config) Write(w io.Writer, explain bool) error {
	var text strings.Builder
	var open []string // the headings that the last line stands under
	for _, key := range Keys() {
		shown, isSet := c.show(key)
		if !isSet && !explain {
			continue
		}
		path := strings.Split(key.Name, ".")
		same := 0
		for same < min(len(open), len(path)-1) && open[same] == path[same] {
			same++
		}
		for ; same < len(path)-1; same++ {
			fmt.Fprintf(&text, "%s%s:\n", strings.Repeat("  ", same), path[same])
		}
		open = path[:len(path)-1]
		indent := strings.Repeat("  ", len(path)-1)
		if explain {
			fmt.Fprintf(&text, "%s# %s (%s)\n", indent, key.Doc, c.source(key))
		}
		if isSet && !key.Secret() {
			fmt.Fprintf(&text, "%s%s: %s\n", indent, path[len(path)-1], shown)
		} else {
			fmt.Fprintf(&text, "%s# %s: %s\n", indent, path[len(path)-1], shown)
		}
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

// source says where the value of a key comes from.
func (c *Config) source(key Key) string {
	from, given := c.origins[key.Name]
	switch {
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
