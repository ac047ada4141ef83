package workload_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testbed"
)

// sqlSession is an administrator's session. Its commits wait for no standby.
func sqlSession(t *testing.T, server *testbed.PostgresServer) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig("sslmode=disable")
	require.NoError(t, err)
	config.Host, config.Port = server.Host(), uint16(server.Port())
	config.User, config.Password, config.Database = server.Superuser, server.Password, "postgres"
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	exec(t, conn, `SET synchronous_commit = local`)
	return conn
}

// exec runs one statement and returns the first column of its last row as text.
func exec(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	rows, err := conn.Query(context.Background(), sql)
	require.NoError(t, err)
	defer rows.Close()
	text := ""
	for rows.Next() {
		text = string(rows.RawValues()[0])
	}
	require.NoError(t, rows.Err())
	return text
}
