package pgctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

// managedFile holds what the controller answers for. The user's postgresql.conf
// includes it as its last line.
const managedFile = "pghad.conf"

// includeLine ends postgresql.conf. Without the file that it names the server does not
// start: better than a start with somebody else's idea of a primary.
const includeLine = "include '" + managedFile + "' # by pghad: this stays the last line, so that nothing below it wins"

var includesManaged = regexp.MustCompile(`(?i)^\s*include(_if_exists)?\s*=?\s*'` + regexp.QuoteMeta(managedFile) + `'`)

// keepUserFile sees to it that postgresql.conf is the user's and that its last line
// includes the managed settings, and returns what it says. Somebody may have added to
// it, replaced it, or copied another server's over it.
func (c *Controller) keepUserFile() (string, error) {
	path := c.dataPath(mainFile)
	old, err := readIfExists(path)
	if err != nil {
		return "", err
	}
	base, err := readIfExists(c.dataPath(baseFile))
	if err != nil {
		return "", err
	}
	text := withInclude(old)
	if strings.HasPrefix(old, generatedBy) { // of an earlier version, which kept the user's beside it
		text = withInclude(base)
	}
	if text != old {
		if err := c.cfg.account.writeFile(path, []byte(text)); err != nil {
			return "", err
		}
	}
	if base != "" && withInclude(base) == text {
		return text, c.cfg.account.removeDurably(c.dataPath(baseFile))
	}
	return text, nil
}

// withInclude is a configuration file that ends with includeLine.
func withInclude(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !includesManaged.MatchString(line) {
			b.WriteString(line)
		}
	}
	kept := b.String()
	if kept != "" && !strings.HasSuffix(kept, "\n") {
		kept += "\n"
	}
	return kept + includeLine + "\n"
}

// readIfExists reads a small file; "" if there is none.
func readIfExists(path string) (string, error) {
	text, err := os.ReadFile(path) //nolint:gosec // a file of the configured directories
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read %s: %w", path, fileFault(path, err))
	}
	return string(text), nil
}

// userChooses are the settings among those with a standard of ours that the user's
// file sets to a value that is good: there ours are not written. A number counts if it
// is not below ours, with which the data may have been made: a standby does not start
// with less. Of files that it includes nothing is known: there ours win.
func userChooses(text string) map[string]bool {
	chosen := make(map[string]bool)
	for line := range strings.Lines(text) {
		name, value := splitSetting(line)
		if _, ours := defaultParameters[name]; ours || name == syncMethod {
			chosen[name] = true
		}
		switch name {
		case "synchronous_commit", "wal_level":
			chosen[name] = boundedParameters[name].check(value) == ""
		case "max_wal_senders", "max_replication_slots":
			least, _ := leadingNumber(boundedParameters[name].standard)
			chosen[name] = atLeast(least)(value) == ""
		}
	}
	return chosen
}
