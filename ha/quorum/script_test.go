package quorum

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

var update = flag.Bool("update", false, "write what the scripts yield into testdata")

// script is a primary with standbys, told line by line; see testdata.
type script struct {
	view    View
	defined map[string]string // frozen walsenders: name to the setting they run by
}

// TestScripts runs testdata/*.txt. A script is lines of orders; after each
// "run" stand the steps that Next asks for until it has nothing to do, indented.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			got := runScript(t, string(text))
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
				return
			}
			require.Equal(t, string(text), got)
		})
	}
}

func runScript(t *testing.T, text string) string {
	s := &script{view: View{MaxLag: 0x1000}, defined: map[string]string{}}
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") {
			continue // an earlier result
		}
		out.WriteString(line)
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		if fields[0] == "run" {
			for _, step := range s.run() {
				fmt.Fprintf(&out, "  %s\n", step)
			}
			continue
		}
		require.NoError(t, s.order(fields[0], fields[1:], strings.TrimSpace(strings.TrimPrefix(line, fields[0]))), line)
	}
	return out.String()
}

// order carries out one line.
func (s *script) order(verb string, args []string, rest string) error {
	v := &s.view
	switch verb {
	case "record": // mode k primary members...
		k, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		all := lives(args[2:]...)
		v.Recorded = Config{Mode: Mode(args[0]), K: k, Primary: all[0], Members: all[1:]}
		v.Sync.Setting = v.Recorded.Setting()
		v.Sync.Flush = 0x5000
	case "setting":
		setting, err := pg.ParseSyncSetting(rest)
		if err != nil {
			return err
		}
		v.Sync.Setting = setting
	case "streams", "catches-up", "connects": // names
		state := map[string]string{"streams": "streaming", "connects": "streaming", "catches-up": "catchup"}[verb]
		for _, name := range args {
			w := pg.Walsender{PID: 100 + len(v.Sync.Senders), Name: name, State: state, Flush: v.Sync.Flush}
			if verb == "connects" {
				w.Flush = 0
			}
			v.Sync.Senders = append(v.Sync.Senders, w)
		}
	case "behind": // name
		s.each(args[0], func(w *pg.Walsender) { w.Flush = 0x10 })
		s.defined[args[0]+" behind"] = ""
	case "catches": // up: name
		delete(s.defined, args[0]+" behind")
	case "holds": // locks: names, with ! for those that must not be waited for
		for _, name := range args {
			m := lives(strings.TrimSuffix(name, "!"))[0]
			v.Candidates = append(v.Candidates, Candidate{Member: m, NoSync: strings.HasSuffix(name, "!")})
		}
	case "gone":
		for _, name := range args {
			v.Lost = append(v.Lost, lives(name)...)
			v.Sync.Senders = slices.DeleteFunc(v.Sync.Senders, func(w pg.Walsender) bool { return w.Name == name })
			v.Candidates = slices.DeleteFunc(v.Candidates, func(c Candidate) bool { return c.Member.String() == name })
		}
	case "back":
		v.Lost = nil
		return s.order("holds", args, "")
	case "frozen": // a walsender does not re-read
		s.defined[args[0]] = v.Sync.Setting.String()
	case "thawed":
		delete(s.defined, args[0])
	case "strict":
		v.Strict = true
	case "wanted":
		v.Mode = Mode(args[0])
	case "hold":
		v.HoldWidening = rest
	case "crash":
		v.Progress = Progress{}
	default:
		return fmt.Errorf("unknown order %q", verb)
	}
	return nil
}

func (s *script) each(name string, change func(*pg.Walsender)) {
	for i := range s.view.Sync.Senders {
		if s.view.Sync.Senders[i].Name == name {
			change(&s.view.Sync.Senders[i])
		}
	}
}

// look lets the walsenders re-read and the standbys flush.
func (s *script) look() {
	v := &s.view
	v.Sync.Flush += 0x100
	for i := range v.Sync.Senders {
		w := &v.Sync.Senders[i]
		if _, behind := s.defined[w.Name+" behind"]; !behind && w.Flush != 0 {
			w.Flush = v.Sync.Flush
		}
		setting := v.Sync.Setting
		if own, frozen := s.defined[w.Name]; frozen {
			setting, _ = pg.ParseSyncSetting(own) // it comes from a SyncSetting
		}
		if w.Priority = priority(setting, w.Name); w.Flush == 0 {
			w.Priority = 0
		}
	}
}

func (s *script) run() []string {
	var steps []string
	for len(steps) < 40 {
		s.look()
		step := Next(s.view)
		steps = append(steps, step.String())
		progress := s.view.After(step)
		switch step.Kind {
		case WriteRecord:
			s.view.Recorded = step.Record
		case WriteSetting:
			s.view.Sync.Setting = step.Setting
		case ReadBarrier:
			s.look()
			progress = s.view.Progress.Read(s.view.Sync)
		case Checkpoint:
		default:
			return steps
		}
		s.view.Progress = progress
	}
	return append(steps, "does not end")
}
