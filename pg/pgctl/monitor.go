package pgctl

// monitorFunctions are what Status calls beyond what pg_monitor may.
var monitorFunctions = []string{
	"pg_control_system()",
	"pg_control_checkpoint()",
}

// MonitoringRole returns the statements that make a role by which a server can be
// watched without being changed: everything that Status reads, and what exporters of
// metrics ask for (pg_monitor). It is no superuser, may not read tables, and has no
// password: add one, or admit it by peer or certificate in HBA.
//
// With Config.MonitorUser Status asks as this role, and Init and Adopt make it.
func MonitoringRole(name string) []string {
	role := quoteIdentifier(name)
	statements := []string{
		createMissing(name),
		"ALTER ROLE " + role + " LOGIN",
		"GRANT pg_monitor TO " + role,
	}
	for _, function := range monitorFunctions {
		statements = append(statements, "GRANT EXECUTE ON FUNCTION pg_catalog."+function+" TO "+role)
	}
	return statements
}
