package api_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/api"
)

// FuzzHandler: whatever is asked in which way, there is one answer with a status, and
// neither it nor the log tells the password.
func FuzzHandler(f *testing.F) {
	const password = "sEcReTmArK"
	f.Add("POST", "/peer/promise", "Content-Type", "application/json", "pghad", password, []byte(`{"format":1}`))
	f.Add("GET", "/", "Authorization", "Basic !!", "", "", []byte{})
	f.Add("POST", "/peer/promise/../promise?x=%zz", "Content-Type", "application/json; charset=\"", "pghad", "wrong", []byte("{"))
	f.Add("BREW", "*", "Content-Length", "-1", "\x00", "\xff", []byte("null"))
	credentials, err := api.OpenCredentials(api.CredentialsConfig{Username: "pghad", Password: password})
	require.NoError(f, err)
	f.Cleanup(credentials.Close)
	f.Fuzz(func(t *testing.T, method, target, header, value, user, word string, body []byte) {
		at, err := url.Parse(target)
		if err != nil || method == "" || strings.Contains(target+header+value+user+string(body), password) {
			return
		}
		var log bytes.Buffer
		handler, err := api.NewHandler(api.HandlerConfig{Promiser: member(willing), Credentials: credentials, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/", bytes.NewReader(body))
		r.Method, r.URL = method, at
		r.Header[header] = []string{value}
		r.SetBasicAuth(user, word)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		require.GreaterOrEqual(t, w.Code, 200)
		require.NotEqual(t, http.StatusInternalServerError, w.Code, "%s", &log)
		require.NotContains(t, w.Body.String(), password)
		require.NotContains(t, log.String(), password)
		if word != password || user != "pghad" {
			require.NotEqual(t, http.StatusOK, w.Code)
		}
	})
}
