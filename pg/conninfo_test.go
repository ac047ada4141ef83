package pg_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func TestParseConninfo(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]pg.Conninfo{
		"":                              nil,
		"  \n":                          nil,
		"host=a":                        {{"host", "a"}},
		" host = a  port\t=\n5432 ":     {{"host", "a"}, {"port", "5432"}},
		`host='a b' user='it\'s \\'`:    {{"host", "a b"}, {"user", `it's \`}},
		`host=a\ b`:                     {{"host", "a b"}},
		`password='' host=b`:            {{"password", ""}, {"host", "b"}},
		"host=a host=b":                 {{"host", "b"}},
		"host='a'port=1":                {{"host", "a"}, {"port", "1"}},
		`host=a\`:                       {{"host", "a"}},
		"postgres://":                   nil,
		"postgresql://h":                {{"host", "h"}},
		"postgresql://u:p%40@h:1/d?a=b": {{"user", "u"}, {"password", "p@"}, {"host", "h"}, {"port", "1"}, {"dbname", "d"}, {"a", "b"}},
		"postgres://[::1]:5,b/":         {{"host", "::1,b"}, {"port", "5,"}},
		"postgres://%2Ftmp/d":           {{"host", "/tmp"}, {"dbname", "d"}},
		"postgres:///d?host=/tmp&user=": {{"dbname", "d"}, {"host", "/tmp"}, {"user", ""}},
	} {
		parsed, err := pg.ParseConninfo(text)
		require.NoError(t, err, text)
		require.Equal(t, want, parsed, text)
	}
	for _, text := range []string{"host", "=a", "host='a", "Host=a", "a b=c", "postgres://u%zz@h", "postgres://h?x", "postgres://[::1", "postgres://[::1]5", "postgres://h?a=b=c", "postgres://h?a=%00"} {
		_, err := pg.ParseConninfo(text)
		require.Error(t, err, text)
	}
	_, err := pg.ParseConninfo("password='secret")
	require.NotContains(t, err.Error(), "secret")
}

func TestConninfoForPeople(t *testing.T) {
	t.Parallel()
	parsed, err := pg.ParseConninfo("host=a,b port=1,2 password=secret sslpassword=x user=u")
	require.NoError(t, err)
	require.Equal(t, "host='a,b' port='1,2' user='u'", parsed.Public().String())
	require.Equal(t, "secret", parsed.Get("password"), "it is unchanged")
	require.Equal(t, "a:1", parsed.Address())
	require.Equal(t, "[::1]:5432", pg.Conninfo{{"hostaddr", "::1"}}.Address())
	require.Empty(t, parsed.Get("dbname"))
	changed := parsed.With("user", "v")
	require.Equal(t, "v", changed.Get("user"))
	require.Equal(t, "u", parsed.Get("user"))
}

func FuzzParseConninfo(f *testing.F) {
	for _, seed := range []string{"", "host=a port=5432", `user='it\'s'`, "postgres://u:p@[::1]:1,b:2/d?x=%3D", `a=\`, "a='"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := pg.ParseConninfo(text)
		if err != nil {
			return
		}
		again, err := pg.ParseConninfo(parsed.String())
		require.NoError(t, err, parsed.String())
		require.Equal(t, parsed, again)
		for _, item := range parsed.Public() {
			require.NotContains(t, item.Keyword, "password")
		}
	})
}
