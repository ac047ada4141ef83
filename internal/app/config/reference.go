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
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write the reference of the configuration: %w", err)
	}
	return nil
}

func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }
