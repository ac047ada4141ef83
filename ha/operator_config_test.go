package ha_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
)

func configValues(mode string) map[string]json.RawMessage {
	return map[string]json.RawMessage{"mode": json.RawMessage(`"` + mode + `"`)}
}

// TestWriteConfig: the second of two editors is told, and nothing is overwritten.
func TestWriteConfig(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, _ := d.operator("o")
		read, err := o.Config(t.Context())
		require.NoError(t, err)
		require.False(t, read.Record.Exists())
		require.Len(t, read.Nodes, 3)
		wrote, err := o.WriteConfig(t.Context(), read, configValues("async"), "jo")
		require.NoError(t, err)
		require.EqualValues(t, 1, wrote.Version)
		require.Equal(t, wrote.Nonce, d.records().Config.Value.Nonce)
		require.Equal(t, "jo", d.records().Config.Value.By)

		_, err = o.WriteConfig(t.Context(), read, configValues("quorum"), "jim")
		require.ErrorIs(t, err, dcs.ErrConflict, "it was read before jo wrote")
		require.JSONEq(t, `"async"`, string(d.records().Config.Value.Values["mode"]))

		// A store that was restored shows less than nodes go by.
		d.put(map[string]any{d.keys.Member("b"): record.Member{Format: 1, Config: &record.ConfigState{Version: 7}}})
		read, err = o.Config(t.Context())
		require.NoError(t, err)
		wrote, err = o.WriteConfig(t.Context(), read, configValues("quorum"), "jim")
		require.NoError(t, err)
		require.EqualValues(t, 8, wrote.Version)

		d.put(map[string]any{d.keys.Config(): `{"format":99}`})
		read, err = o.Config(t.Context())
		require.NoError(t, err)
		require.ErrorIs(t, read.Err, record.ErrNewer)
		_, err = o.WriteConfig(t.Context(), read, configValues("quorum"), "jim")
		require.ErrorIs(t, err, ha.ErrRefused)
	})
}

func TestWriteConfigWithoutReply(t *testing.T) {
	t.Parallel()
	late := fault{fail: true, late: time.Minute}
	writes := func(d *desk) func(storeCall) bool {
		return func(c storeCall) bool { return c.takes(d.keys.Config()) }
	}
	tests := []struct {
		name  string
		rule  func(*desk) func(storeCall) fault
		is    error // nil: it is written
		there bool
	}{
		{"the reply is lost", func(d *desk) func(storeCall) fault { return first(1, writes(d), fault{mute: true}) }, nil, true},
		{"the write is lost", func(d *desk) func(storeCall) fault { return first(1, writes(d), fault{lost: true}) }, nil, true},
		{"the write is late", func(d *desk) func(storeCall) fault { return first(1, writes(d), late) }, nil, true},
		{"all writes are lost", func(d *desk) func(storeCall) fault { return first(100, writes(d), fault{lost: true}) }, dcs.ErrAmbiguous, false},
		{"all writes are late", func(d *desk) func(storeCall) fault { return first(100, writes(d), late) }, dcs.ErrAmbiguous, true},
		{"somebody else is first", func(d *desk) func(storeCall) fault {
			done := false
			return func(c storeCall) fault {
				if !writes(d)(c) || done {
					return fault{}
				}
				done = true
				d.put(map[string]any{d.keys.Config(): record.Config{Format: 1, Version: 1, Nonce: "other"}})
				return fault{mute: true}
			}
		}, dcs.ErrConflict, false},
		{"it is overwritten while nobody knows", func(d *desk) func(storeCall) fault {
			sent := 0
			return func(c storeCall) fault {
				if !writes(d)(c) {
					return fault{}
				}
				if sent++; sent == 1 {
					return fault{mute: true}
				}
				d.put(map[string]any{d.keys.Config(): record.Config{Format: 1, Version: 2, Nonce: "other"}})
				return fault{}
			}
		}, dcs.ErrAmbiguous, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t)
				o, store := d.operator("o")
				read, err := o.Config(t.Context())
				require.NoError(t, err)
				store.setRule(tt.rule(d))
				wrote, err := o.WriteConfig(t.Context(), read, configValues("async"), "jo")
				store.setRule(nil)
				time.Sleep(2 * time.Minute) // what is late has arrived
				now := d.records().Config.Value
				require.Equal(t, tt.there, now.Values["mode"] != nil)
				if tt.is == nil {
					require.NoError(t, err)
					require.Equal(t, wrote.Nonce, now.Nonce)
					return
				}
				require.ErrorIs(t, err, tt.is)
			})
		})
	}
}

// TestAwaitConfig: nodes are waited for until they go by the version, or say why not.
func TestAwaitConfig(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, _ := d.operator("o")
		read, err := o.Config(t.Context())
		require.NoError(t, err)
		wrote, err := o.WriteConfig(t.Context(), read, configValues("async"), "jo")
		require.NoError(t, err)
		var waited [][]string
		go func() {
			for _, host := range []string{"a", "b"} {
				time.Sleep(time.Second)
				d.put(map[string]any{d.keys.Member(host): record.Member{Format: 1, Config: &record.ConfigState{Version: 1}}})
			}
			time.Sleep(time.Second)
			d.put(map[string]any{d.keys.Member("c"): record.Member{Format: 1, Config: &record.ConfigState{Problem: ha.ConfigProblem(1, "too much")}}})
		}()
		view, err := o.AwaitConfig(t.Context(), wrote.Version, func(waiting []string) { waited = append(waited, waiting) })
		require.NoError(t, err)
		require.Equal(t, [][]string{{"a", "b", "c"}, {"b", "c"}, {"c"}, nil}, waited)
		require.Equal(t, "version 1: too much", view.Nodes[2].Problem)

		d.put(map[string]any{d.keys.Config(): record.Config{Format: 1, Version: 3}})
		_, err = o.AwaitConfig(t.Context(), 2, nil)
		require.ErrorIs(t, err, ha.ErrOvertaken)
	})
}
