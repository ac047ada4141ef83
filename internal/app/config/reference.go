package config

import (
	"fmt"
	"io"
	"strings"
)

// WriteReference writes what every key means, for people.
func WriteReference(w io.Writer) error {
	var text strings.Builder
	text.WriteString(`The configuration is a YAML file. Every key can also be set by the environment
variable beside it, which then wins. Durations have a unit: 500ms, 10s, 2m.
`)
	for _, key := range Keys() {
		fmt.Fprintf(&text, "\n%s (%s)  %s\n    %s.\n", key.Name, key.Type(), key.Env(), capital(key.Doc))
		if choice := strings.Join(key.OneOf, ", "); choice != "" {
			fmt.Fprintf(&text, "    One of: %s.\n", choice)
		}
		switch {
		case key.need == forRun || key.need == forClient:
			text.WriteString("    Required.\n")
		case key.Note != "":
			fmt.Fprintf(&text, "    Default: %s.\n", key.Note)
		case key.Default != "":
			fmt.Fprintf(&text, "    Default: %s.\n", key.Default)
		}
		if sentence := key.changes(); sentence != "" {
			fmt.Fprintf(&text, "    %s.\n", sentence)
		}
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write the reference of the configuration: %w", err)
	}
	return nil
}

// changes says where else a key can be set than in file and environment, and when
// a change comes into force; "" for a key of the file of which a change needs a
// restart of pghad.
func (k Key) changes() string {
	switch {
	case k.Cluster && k.Live:
		return "Can be set for the whole cluster by pghad edit-config; a change comes into force without a restart"
	case k.Cluster:
		return "Can be set for the whole cluster by pghad edit-config; a change comes into force at the next start of each pghad"
	case k.Live:
		return "A change comes into force when pghad reads its file again (SIGHUP)"
	}
	return ""
}

// WriteTable writes the keys as a table in Markdown, in the order of the reference.
func WriteTable(w io.Writer) error {
	var text strings.Builder
	text.WriteString("| key | type | default | cluster-wide | change | meaning |\n|---|---|---|---|---|---|\n")
	for _, key := range Keys() {
		preset, wide, change := key.Default, "", "restart"
		switch {
		case key.Required():
			preset = "required"
		case key.Note != "":
			preset = key.Note
		case key.Default != "":
			preset = "`" + key.Default + "`"
		}
		if key.Cluster {
			wide = "yes"
		}
		if key.Live {
			change = "live"
		}
		doc := key.Doc
		if len(key.OneOf) > 0 {
			doc += " (one of " + strings.Join(key.OneOf, ", ") + ")"
		}
		cells := []string{"`" + key.Name + "`", key.Type(), preset, wide, change, doc}
		for i, cell := range cells {
			cells[i] = strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(cell)
		}
		fmt.Fprintf(&text, "| %s |\n", strings.Join(cells, " | "))
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write the table of the configuration: %w", err)
	}
	return nil
}

func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }
