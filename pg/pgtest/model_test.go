package pgtest_test

import (
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/pg/pgtest"
)

var _ ha.PostgresController = (*pgtest.Controller)(nil)
