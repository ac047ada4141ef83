package role_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/role"
	"github.com/pghad/pghad/pg"
)

// replica is a healthy member of a healthy cluster that b leads.
func replica() role.View {
	return role.View{
		Name: "a", Initialized: "77", Records: true, Leader: "b", InD: true,
		Memory: "77", Data: role.DataPresent, SystemID: "77", Process: pg.ProcessRunning, Role: pg.RoleStandby,
	}
}

// own is a server that serves while `leader` is its own holding, without a warrant
// in this process.
func own(v *role.View) { v.Role, v.Leader, v.Mine, v.Serving = pg.RolePrimary, "a", true, true }

func TestDecide(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*role.View)
		want   role.Action
	}{
		"healthy replica":                          {func(*role.View) {}, role.Follow},
		"writable without a lease":                 {func(v *role.View) { v.Role = pg.RolePrimary }, role.Stop},
		"writable without a lease and no store":    {func(v *role.View) { v.Role, v.StoreErr = pg.RolePrimary, "timeout" }, role.Stop},
		"writable, leader by name only":            {func(v *role.View) { v.Role, v.Leader = pg.RolePrimary, "a" }, role.Stop},
		"writable with a lease":                    {func(v *role.View) { v.Role, v.Leader, v.Office = pg.RolePrimary, "a", true }, role.Lead},
		"a lease and a store that does not answer": {func(v *role.View) { v.Role, v.Office, v.StoreErr = pg.RolePrimary, true, "timeout" }, role.Lead},
		"own holding, server serves":               {own, role.TakeUp},
		"own holding, on another timeline":         {func(v *role.View) { own(v); v.Serving = false }, role.Stop},
		"own holding, server silent":               {func(v *role.View) { own(v); v.Serving, v.Silent = false, true }, role.Wait},
		"nobody's holding, server silent":          {func(v *role.View) { own(v); v.Mine, v.Serving, v.Silent = false, false, true }, role.Stop},
		"own holding, records that disagree":       {func(v *role.View) { own(v); v.RecordsErr = "bad" }, role.Stop},
		"own holding, store forgot":                {func(v *role.View) { own(v); v.Forgotten = "restored" }, role.Stop},
		"own holding, other system":                {func(v *role.View) { own(v); v.SystemID = "88" }, role.Stop},
		"own holding, server stopped":              {func(v *role.View) { v.Leader, v.Mine, v.Process, v.Role = "a", true, pg.ProcessStopped, pg.RoleUnknown }, role.Vacate},
		"own holding, server is a standby":         {func(v *role.View) { v.Leader, v.Mine = "a", true }, role.Vacate},
		"own holding, server does not say":         {func(v *role.View) { v.Leader, v.Mine, v.Role = "a", true, pg.RoleUnknown }, role.Wait},
		"recorded primary, nobody leads":           {func(v *role.View) { own(v); v.Leader, v.Mine, v.MayReturn = "", false, true }, role.TakeUp},
		"somebody has won":                         {func(v *role.View) { own(v); v.Leader, v.Mine = "", false }, role.Stop},
		"maintenance, replica":                     {func(v *role.View) { v.Maintenance = true }, role.Keep},
		"maintenance, no leader":                   {func(v *role.View) { v.Maintenance, v.Leader = true, "" }, role.Keep},
		"maintenance, server stopped, no store":    {func(v *role.View) { v.Maintenance, v.StoreErr, v.Process = true, "timeout", pg.ProcessStopped }, role.Wait},
		"maintenance, writable, no store":          {func(v *role.View) { v.Maintenance, v.StoreErr, v.Role = true, "timeout", pg.RolePrimary }, role.Keep},
		"maintenance, writable, deposed":           {func(v *role.View) { v.Maintenance, v.Deposed, v.Role = true, true, pg.RolePrimary }, role.Stop},
		"maintenance, writable, nobody leads":      {func(v *role.View) { own(v); v.Maintenance, v.Leader, v.Mine = true, "", false }, role.Keep},
		"maintenance, own term":                    {func(v *role.View) { v.Maintenance, v.Office, v.Role = true, true, pg.RolePrimary }, role.Lead},
		"store error is not an absent leader":      {func(v *role.View) { v.Leader, v.StoreErr = "", "timeout" }, role.Wait},
		"no store and a server that has ended":     {func(v *role.View) { v.StoreErr, v.Process, v.Role = "timeout", pg.ProcessCrashed, pg.RoleUnknown }, role.Stand},
		"no store, never a member":                 {func(v *role.View) { v.StoreErr, v.Process, v.Memory = "timeout", pg.ProcessStopped, "" }, role.Wait},
		"no leader, recorded member":               {func(v *role.View) { v.Leader = "" }, role.Elect},
		"no leader, not recorded":                  {func(v *role.View) { v.Leader, v.InD = "", false }, role.Stand},
		"no leader, not recorded, nothing to run":  {func(v *role.View) { v.Leader, v.InD, v.Data = "", false, role.DataNone }, role.Wait},
		"own name in leader without a lease":       {func(v *role.View) { v.Leader = "a" }, role.Stand},
		"no data":                                  {func(v *role.View) { v.Data, v.SystemID, v.Role = role.DataNone, "", pg.RoleUnknown }, role.Follow},
		"data of another cluster":                  {func(v *role.View) { v.SystemID = "88" }, role.Foreign},
		"own data of an interrupted bootstrap":     {func(v *role.View) { v.SystemID, v.Pending, v.Memory = "88", true, "" }, role.Follow},
		"corrupt record":                           {func(v *role.View) { v.RecordsErr = "record /x: bad" }, role.Wait},
		"store shows less than remembered":         {func(v *role.View) { v.Forgotten = "restored" }, role.Wait},
		"quorum record gone":                       {func(v *role.View) { v.Records = false }, role.Wait},
		"emptied store":                            {func(v *role.View) { v.Initialized, v.Bootstrap = "", true }, role.Wait},
		"new cluster, may create":                  {func(v *role.View) { *v = role.View{Name: "a", Bootstrap: true, Data: role.DataNone} }, role.Bootstrap},
		"new cluster, may not create":              {func(v *role.View) { *v = role.View{Name: "a", Data: role.DataNone} }, role.Wait},
		"new cluster over existing data":           {func(v *role.View) { *v = role.View{Name: "a", Bootstrap: true, Data: role.DataPresent, SystemID: "9"} }, role.Wait},
		"new cluster of existing data": {func(v *role.View) {
			*v = role.View{Name: "a", Bootstrap: true, Existing: true, Data: role.DataPresent, SystemID: "9"}
		}, role.Bootstrap},
		"existing data, another creates the cluster": {func(v *role.View) { *v = role.View{Name: "a", Existing: true, Data: role.DataPresent, SystemID: "9"} }, role.Wait},
		"existing data, of an emptied store": {func(v *role.View) {
			*v = role.View{Name: "a", Bootstrap: true, Existing: true, Memory: "9", Data: role.DataPresent, SystemID: "9"}
		}, role.Wait},
		"interrupted bootstrap goes on":             {func(v *role.View) { *v = role.View{Name: "a", Pending: true, Data: role.DataPresent, SystemID: "9"} }, role.Bootstrap},
		"interrupted copy, leader there":            {func(v *role.View) { v.Data = role.DataIncomplete }, role.Follow},
		"interrupted copy, not recorded, no leader": {func(v *role.View) { v.Data, v.Leader, v.InD = role.DataIncomplete, "", false }, role.Wait},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := replica()
			c.change(&v)
			plan := role.Decide(v)
			require.Equal(t, c.want, plan.Action, plan.String())
			require.NotEmpty(t, plan.Why)
		})
	}
}

// TestNeverWritableWithoutOffice enumerates every combination of what a node
// may see: without an office a server that can be written to is always stopped,
// and nobody leads.
func TestNeverWritableWithoutOffice(t *testing.T) {
	t.Parallel()
	flags := []func(*role.View){
		func(v *role.View) { v.StoreErr = "x" },
		func(v *role.View) { v.RecordsErr = "x" },
		func(v *role.View) { v.Initialized = "" },
		func(v *role.View) { v.Records = false },
		func(v *role.View) { v.Leader = "" },
		func(v *role.View) { v.Leader = "a" },
		func(v *role.View) { v.InD = false },
		func(v *role.View) { v.Memory = "" },
		func(v *role.View) { v.Forgotten = "x" },
		func(v *role.View) { v.Bootstrap = true },
		func(v *role.View) { v.Pending = true },
		func(v *role.View) { v.SystemID = "88" },
	}
	for set := range uint(1) << len(flags) {
		v := replica()
		for i, flag := range flags {
			if set>>i&1 == 1 {
				flag(&v)
			}
		}
		require.NotEqual(t, role.Lead, role.Decide(v).Action, "%+v", v)
		v.Role = pg.RolePrimary
		require.Equal(t, role.Stop, role.Decide(v).Action, "%+v", v)
	}
}
