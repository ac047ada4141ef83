package pg_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func TestParseLSN(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]pg.LSN{
		"0/0":               0,
		"0/5000148":         0x5000148,
		"16/B374D848":       0x16B374D848,
		"16/b374d848":       0x16B374D848,
		"FFFFFFFF/FFFFFFFF": 1<<64 - 1,
	} {
		lsn, err := pg.ParseLSN(text)
		require.NoError(t, err, text)
		require.Equal(t, want, lsn, text)
	}
	for _, text := range []string{"", "/", "0", "0/", "/0", "0/0/0", "x/0", "-1/0", "+1/0", "0x1/0", " 0/0", "0/ 1", "100000000/0", "0/100000000", "0/_1"} {
		_, err := pg.ParseLSN(text)
		require.Error(t, err, text)
	}
}

func TestLSNInRecords(t *testing.T) {
	t.Parallel()
	position := pg.Position{Timeline: 3, LSN: 0x5000148}
	text, err := json.Marshal(position)
	require.NoError(t, err)
	require.JSONEq(t, `{"timeline":3,"lsn":"0/5000148"}`, string(text))
	var back pg.Position
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, position, back)
	require.Error(t, json.Unmarshal([]byte(`{"lsn":"nothing"}`), &back))
	require.Equal(t, "(3, 0/5000148)", position.String())
}

func TestTimelineText(t *testing.T) {
	t.Parallel()
	timeline, err := pg.ParseTimeline(" 10\n")
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(10), timeline)
	require.Equal(t, "10", timeline.String())
	require.Equal(t, "0000000A", timeline.Hex())
	for _, text := range []string{"", "0", "-1", "4294967296", "0x1", "one"} {
		_, err := pg.ParseTimeline(text)
		require.Error(t, err, text)
	}
}

func TestPositionsAreOrderedByTimelineFirst(t *testing.T) {
	t.Parallel()
	ordered := []pg.Position{{}, {Timeline: 1}, {Timeline: 1, LSN: 9}, {Timeline: 2, LSN: 5}, {Timeline: 2, LSN: 6}}
	for i, p := range ordered {
		for j, q := range ordered {
			switch c := p.Compare(q); {
			case i < j:
				require.Negative(t, c)
			case i > j:
				require.Positive(t, c)
			default:
				require.Zero(t, c)
			}
		}
	}
}

func FuzzParseLSN(f *testing.F) {
	for _, seed := range []string{"", "0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "100000000/0", "a/b/c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lsn, err := pg.ParseLSN(text)
		if err != nil {
			return
		}
		again, err := pg.ParseLSN(lsn.String())
		require.NoError(t, err)
		require.Equal(t, lsn, again)
	})
}

func FuzzParseTimeline(f *testing.F) {
	for _, seed := range []string{"", "0", "1", " 42\n", "4294967295", "4294967296", "-1", "0x10", "١"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		timeline, err := pg.ParseTimeline(text)
		if err != nil {
			return
		}
		require.NotZero(t, timeline)
		again, err := pg.ParseTimeline(timeline.String())
		require.NoError(t, err)
		require.Equal(t, timeline, again)
		require.Len(t, timeline.Hex(), 8)
	})
}
