package config_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/config"
)

// openAPI ends the sentence about an API that everybody can reach.
const openAPI = "and nothing says who may ask; set api.username and api.password_file, " +
	"or api.tls with client_certificates: true, or write an address inside this machine"

// TestProblems: what is wrong is said with place, key and remedy. FILE stands
// for the name of the file.
func TestProblems(t *testing.T) {
	t.Parallel()
	replace := func(old, now string) string { return strings.Replace(minimal, old, now, 1) }
	tests := []struct {
		name string
		text string
		env  []string
		want string
	}{
		{
			"misspelt key", replace("endpoints:", "endpionts:"), nil,
			"FILE:4:3: dcs.endpionts: unknown key; did you mean endpoints?\n" +
				"FILE: dcs.endpoints: is missing (addresses of the store's servers, http://host:port or https://host:port each, for zookeeper host:port or host); set it in the file or by PGHAD_DCS_ENDPOINTS",
		},
		{"key of another level", minimal + "ttl: 10s\n", nil, "FILE:9:1: ttl: unknown key; did you mean timing.ttl?"},
		{
			"unknown key", minimal + "tags:\n  frobnicate: 1\n", nil,
			"FILE:10:3: tags.frobnicate: unknown key; the keys here are nofailover, failover_priority",
		},
		{"duration without a unit", minimal + "timing:\n  ttl: 10\n", nil, "FILE:10:8: timing.ttl: 10 has no unit; write 10s"},
		{"quoted duration without a unit", minimal + "timing: {ttl: \"1.5\"}\n", nil, "FILE:9:15: timing.ttl: 1.5 has no unit; write 1.5s"},
		{
			"no duration", minimal + "timing: {ttl: 10 seconds}\n", nil,
			`FILE:9:15: timing.ttl: "10 seconds" is not a duration; write a number and a unit (ms, s, m or h), like 10s or 500ms`,
		},
		{"duration below zero", minimal + "timing: {ttl: -10s}\n", nil, "FILE:9:15: timing.ttl: -10s is not above zero; write a time like 10s"},
		{"duration in the environment", minimal, []string{"PGHAD_TIMING_TTL=10"}, "PGHAD_TIMING_TTL: timing.ttl: 10 has no unit; write 10s"},
		{"unknown variable", minimal, []string{"PGHAD_TIMING_TLL=10s"}, "PGHAD_TIMING_TLL: unknown variable; did you mean PGHAD_TIMING_TTL?"},
		{
			"quite unknown variable", minimal,
			[]string{"PGHAD_FROBNICATE=1"},
			"PGHAD_FROBNICATE: unknown variable; remove it, or see pghad help config for those that exist",
		},
		{"map in the environment", minimal, []string{"PGHAD_POSTGRES_PARAMETERS=a=b"}, "PGHAD_POSTGRES_PARAMETERS: postgres.parameters: not a map; write {name: value, name: value}"},
		{"yes", minimal + "bootstrap: yes\n", nil, `FILE:9:12: bootstrap: "yes" is neither true nor false`},
		{"no number", replace("postgres:\n", "postgres:\n  port: http\n"), nil, `FILE:6:9: postgres.port: "http" is not a whole number`},
		{"no port", replace("postgres:\n", "postgres:\n  port: 70000\n"), nil, "FILE:6:9: postgres.port: 70000 is not a port; write a number from 1 to 65535"},
		{"text for a list", replace("[http://127.0.0.1:2379]", "http://127.0.0.1:2379"), nil, "FILE:4:14: dcs.endpoints: has a single value; write a list, like [a, b]"},
		{"list for a text", replace("node: a", "node: [a]"), nil, "FILE:2:7: node: has a list; write a single value"},
		{"map for a text", replace("node: a", "node: {a: b}"), nil, "FILE:2:8: node: has a map; write a single value"},
		{"list in a list", replace("[http://127.0.0.1:2379]", "[[a]]"), nil, "FILE:4:14: dcs.endpoints: has a list as element 1; write a single value"},
		{"unquoted colon", replace("[http://127.0.0.1:2379]", "[{a: b}]"), nil, "FILE:4:14: dcs.endpoints: has a map as element 1; write a single value, in quotes if it has a colon in it"},
		{"list in a map", minimal + "  parameters: {a: [b]}\n", nil, "FILE:9:16: postgres.parameters: has a list as value of a; write a single value"},
		{"text for a group", minimal + "timing: fast\n", nil, "FILE:9:9: timing: has a single value; write keys below it: ttl, renew, margin, observe, request, removal_delay, election_timeout"},
		{"no value", replace("node: a", "node:"), nil, "FILE:2:1: node: has no value; write one or remove the key"},
		{"missing", replace("node: a\n", ""), nil, "FILE: node: is missing (name of this node, different from every other node of the cluster); set it in the file or by PGHAD_NODE"},
		{"twice", minimal + "node: b\n", nil, `FILE:9:1: not valid YAML: mapping key "node" already defined at [2:1]`},
		{"no YAML", "cluster: [", nil, "FILE:1:10: not valid YAML: sequence end token ']' not found"},
		{"anchor", replace("node: a", "node: &x a"), nil, "FILE:2:7: YAML's Anchor is not supported here; write the value out"},
		{"two documents", minimal + "---\nnode: b\n", nil, "FILE:9:1: a second YAML document begins here; write one only"},
		{"list of keys", "- cluster\n", nil, "FILE:1:1: the file holds a list; write keys, like cluster: NAME"},
		{"bad name", replace("cluster: orders", "cluster: Orders"), nil, `FILE:1:10: cluster: "Orders": want 1 to 63 of a-z, 0-9, - and _, starting with a letter or digit`},
		{"memory", replace("dcs:\n", "dcs:\n  type: memory\n"), nil, `FILE:4:9: dcs.type: "memory" is unknown; write one of etcd, zookeeper, embedded`},
		{"key of another store", replace("dcs:\n", "dcs:\n  chroot: /x\n"), nil, "FILE:4:11: dcs.chroot: is for dcs.type zookeeper, and that is etcd; remove it, or write dcs.type: zookeeper"},
		{
			"key of another store in the environment", replace("dcs:\n", "dcs:\n  type: zookeeper\n"),
			[]string{"PGHAD_DCS_ENDPOINTS=zk", "PGHAD_DCS_EMBEDDED_LISTEN=http://x:1"},
			"PGHAD_DCS_EMBEDDED_LISTEN: dcs.embedded.listen: is for dcs.type embedded, and that is zookeeper; remove it, or write dcs.type: embedded",
		},
		{"no endpoint", replace("[http://127.0.0.1:2379]", "[]"), nil, "FILE:4:14: dcs.endpoints: names no server; write a list, like [http://10.0.0.1:2379]"},
		{"endpoint without scheme", replace("http://127.0.0.1:2379", "127.0.0.1:2379"), nil, `FILE:4:14: dcs.endpoints: "127.0.0.1:2379" is not an address; write it like http://10.0.0.1:2379`},
		{"endpoint without port", replace("http://127.0.0.1:2379", "http://etcd"), nil, `FILE:4:14: dcs.endpoints: "http://etcd" has no port; write it like http://10.0.0.1:2379`},
		{"endpoint with password", replace("http://127.0.0.1:2379", "http://u:hunter3@etcd:2379"), nil, "FILE:4:14: dcs.endpoints: an address holds a user or password; write them as dcs.username and dcs.password_file"},
		{"broken endpoint with password", replace("http://127.0.0.1:2379", "u:hunter3@etcd:2379"), nil, `FILE:4:14: dcs.endpoints: "[redacted]@etcd:2379" is not an address; write it like http://10.0.0.1:2379`},
		{"endpoint with path", replace("http://127.0.0.1:2379", "http://etcd:2379/v3"), nil, `FILE:4:14: dcs.endpoints: "http://etcd:2379/v3" has something after the port; remove it`},
		{"TLS without https", replace("dcs:\n", "dcs:\n  tls: {ca_file: /ca}\n"), nil, `FILE:5:14: dcs.endpoints: "http://127.0.0.1:2379" is not encrypted, but dcs.tls is set; write https, or remove dcs.tls`},
		{"user without password", replace("dcs:\n", "dcs:\n  username: u\n"), nil, "FILE:4:13: dcs.username: has no password; set dcs.password_file"},
		{"two passwords", replace("    password: hunter2\n", "    password: hunter2\n    password_file: /x\n"), nil, "FILE:9:20: postgres.replication.password_file: contradicts postgres.replication.password; give one of them"},
		{
			"no password", replace("  replication:\n    password: hunter2\n", ""), nil,
			"FILE: postgres.replication.password_file: is missing (nodes copy from each other with this password, the same on all of them); set it in the file or by PGHAD_POSTGRES_REPLICATION_PASSWORD",
		},
		{"relative path", replace("/data", "data"), nil, `FILE:6:13: postgres.data_dir: "data" depends on where pghad is started; write the path from the root, with / at the front`},
		{"state in data", replace("/data", "/data\n  state_dir: /data/state"), nil, "FILE:7:14: postgres.state_dir: /data/state is inside data_dir, so a copy of the data would copy it too; write a directory beside it"},
		{"data in state", replace("/data", "/data/pg\n  state_dir: /data"), nil, "FILE:6:13: postgres.data_dir: /data/pg is inside state_dir; write a directory beside it"},
		{"log in data", replace("/data", "/data\n  log: /data/x.log"), nil, "FILE:7:8: postgres.log: /data/x.log is inside data_dir, so a copy of the data would remove it; write a path outside"},
		{
			"long socket path", replace("/data", "/"+strings.Repeat("d", 100)), nil,
			"FILE: postgres.socket_dir: the path of the socket would have 128 bytes, and 107 are possible; set a shorter directory",
		},
		{"listen everywhere", replace("/data", "/data\n  listen: 0.0.0.0"), nil, `FILE:7:11: postgres.listen: "0.0.0.0" is no address that other nodes could reach; write this node's own`},
		{"listen with port", replace("/data", "/data\n  listen: a:5432"), nil, `FILE:7:11: postgres.listen: "a:5432" is not one address; write one name or IP address, without a port`},
		{"replication as superuser", minimal + "    user: postgres\n", nil, `FILE:9:11: postgres.replication.user: "postgres" is the superuser too; write another name`},
		{"open API", minimal + "api:\n  listen: 10.0.0.11:8008\n", nil, "FILE:10:11: api.listen: other machines can reach 10.0.0.11:8008, " + openAPI},
		{"API open on all addresses", minimal + "api:\n  listen: 0.0.0.0:8008\n", nil, "FILE:10:11: api.listen: other machines can reach 0.0.0.0:8008, " + openAPI},
		{
			"API open by default", replace("/data", "/data\n  listen: 10.0.0.11") + "api:\n  advertise: db1:8008\n", nil,
			"FILE: api.listen: other machines can reach 10.0.0.11:8008, " + openAPI,
		},
		{
			"API open but encrypted", minimal + "api:\n  listen: 10.0.0.11:8008\n  tls: {cert_file: /c, key_file: /k, ca_file: /ca}\n", nil,
			"FILE:10:11: api.listen: other machines can reach 10.0.0.11:8008, " + openAPI,
		},
		{
			"API without a port", minimal,
			[]string{"PGHAD_API_LISTEN=127.0.0.1"},
			`PGHAD_API_LISTEN: api.listen: "127.0.0.1" is not host:port; write it like 10.0.0.11:8008, or like 0.0.0.0:8008 for all addresses of this machine`,
		},
		{
			"API without a host", minimal,
			[]string{"PGHAD_API_LISTEN=:8008"},
			`PGHAD_API_LISTEN: api.listen: ":8008" is not host:port; write it like 10.0.0.11:8008, or like 0.0.0.0:8008 for all addresses of this machine`,
		},
		{"API port of another range", minimal, []string{"PGHAD_API_LISTEN=127.0.0.1:70000"}, `PGHAD_API_LISTEN: api.listen: "127.0.0.1:70000" has no port; write it like 10.0.0.11:8008`},
		{"API as a URL", minimal, []string{"PGHAD_API_LISTEN=http://127.0.0.1:8008"}, `PGHAD_API_LISTEN: api.listen: "http://127.0.0.1:8008" is not host:port; write it like 10.0.0.11:8008, or like 0.0.0.0:8008 for all addresses of this machine`},
		{"API from no network", minimal, []string{"PGHAD_API_ALLOW=10.0.0.0/8,10.0.0"}, `PGHAD_API_ALLOW: api.allow: "10.0.0" is neither an address nor a network; write it like 10.0.0.11 or 10.0.0.0/24`},
		{"API at PostgreSQL's port", minimal, []string{"PGHAD_API_LISTEN=127.0.0.1:5432"}, "PGHAD_API_LISTEN: api.listen: 5432 is PostgreSQL's port (postgres.port); write another one"},
		{"API reached nowhere", minimal, []string{"PGHAD_API_ADVERTISE=0.0.0.0:8008"}, `PGHAD_API_ADVERTISE: api.advertise: "0.0.0.0" is no address that other nodes could reach; write this node's own`},
		{"API reached at no port", minimal, []string{"PGHAD_API_ADVERTISE=db1:0"}, `PGHAD_API_ADVERTISE: api.advertise: "db1:0" has no port that others could reach; write it like 10.0.0.11:8008`},
		{"API user without password", minimal + "api:\n  username: u\n", nil, "FILE:10:13: api.username: has no password; set api.password_file"},
		{"API password without user", minimal, []string{"PGHAD_API_PASSWORD=hunter2"}, "PGHAD_API_PASSWORD: api.password: has no user; set api.username"},
		{"API user with a colon", minimal + "api: {username: \"a:b\", password: hunter2}\n", nil, `FILE:9:17: api.username: "a:b" has a colon in it, which HTTP does not permit; write another name`},
		{"API without a key", minimal + "api: {tls: {cert_file: /c}}\n", nil, "FILE: api.tls: cert_file and key_file belong together; give both or none"},
		{
			"API authority without certificate", minimal + "api: {tls: {ca_file: /ca}}\n", nil,
			"FILE:9:22: api.tls.ca_file: has no use without api.tls.cert_file; set it and api.tls.key_file too",
		},
		{
			"API certificates of nobody", minimal + "api: {tls: {cert_file: /c, key_file: /k, client_certificates: true}}\n", nil,
			"FILE:9:63: api.tls.client_certificates: does not say whose certificates are good; set api.tls.ca_file",
		},
		{"API relative path", minimal + "api: {tls: {cert_file: c, key_file: /k}}\n", nil, `FILE:9:24: api.tls.cert_file: "c" depends on where pghad is started; write the path from the root, with / at the front`},
		{"backup forgotten", minimal + "backup:\n  target: immediate\n", nil, "FILE:10:11: backup.target: is for bootstrap_from backup, and that is initdb; remove it, or write bootstrap_from: backup"},
		{"backup from nowhere", minimal + "bootstrap_from: backup\n", nil, "FILE: backup.command: is missing; write the program and its arguments that fill {dir} from the backup"},
		{
			"backup to nowhere", minimal + "bootstrap_from: backup\nbackup: {command: [/fill]}\n", nil,
			"FILE:10:19: backup.command: does not say where to; write {dir} in the argument that is the directory to be filled",
		},
		{
			"backup to another time", minimal + "bootstrap_from: backup\nbackup: {command: [/fill, \"{dir}\"], target: yesterday}\n", nil,
			`FILE:10:45: backup.target: "yesterday" is unknown; write time, lsn, name, xid or immediate`,
		},
		{
			"backup to no time", minimal + "bootstrap_from: backup\nbackup: {command: [/fill, \"{dir}\"], target: time}\n", nil,
			"FILE:10:45: backup.target: time needs a value; set backup.value",
		},
		{
			"backup to a value", minimal + "bootstrap_from: backup\nbackup: {command: [/fill, \"{dir}\"], value: x}\n", nil,
			"FILE:10:44: backup.value: has no target that needs it; write backup.target: time, lsn, name or xid",
		},
		{"unknown origin", minimal + "bootstrap_from: nothing\n", nil, `FILE:9:17: bootstrap_from: "nothing" is unknown; write one of initdb, backup, existing`},
		{"relative program", minimal + "  clone_command: [barman, \"{dir}\"]\n", nil, `FILE:9:18: postgres.clone_command: "barman" depends on where pghad is started; write the program's path from the root, with / at the front`},
		{"no program", minimal + "  clone_command: []\n", nil, "FILE:9:18: postgres.clone_command: names no program; write a list of it and its arguments, or remove the key"},
		{"no copies", minimal + "  rejoin: {attempts: 0}\n", nil, "FILE:9:22: postgres.rejoin.attempts: 0 permits no copy at all; write a number above zero"},
		{"slots kept for no time", minimal + "  member_slots_ttl: 0s\n", nil, "FILE:9:21: postgres.member_slots_ttl: 0s is not above zero; write a time like 24h"},
		{"nothing sent again", minimal + "  archive: {resend: 0}\n", nil, "FILE:9:21: postgres.archive.resend: 0 is not a number of bytes above zero; write one, at least as much as the former primary may not have archived yet"},
		{"unknown end of copies", minimal + "  rejoin: {then: panic}\n", nil, `FILE:9:18: postgres.rejoin.then: "panic" is unknown; write one of clone, alert, hold`},
		{"no bound of a loss", minimal + "maximum_lag_on_failover: 0\n", nil, "FILE:9:26: maximum_lag_on_failover: 0 is no bound; write a number of bytes above zero"},
		{"left to no guard", minimal + "guard: {use: never}\non_exit: keep\n", nil, "FILE:10:10: on_exit: keep leaves PostgreSQL to its guard, and guard.use is never; write guard.use: always, or on_exit: stop"},
		{"half a second", minimal + "guard: {watchdog_timeout: 1500ms}\n", nil, "FILE:9:27: guard.watchdog_timeout: 1.5s is not what a device can be told; write whole seconds, at least 1s"},
		{"mode of another version", minimal + "mode: sync\n", nil, `FILE:9:7: mode: "sync" is unknown; write one of quorum, async`},
		{"unknown mode", minimal + "mode: fast\n", nil, `FILE:9:7: mode: "fast" is unknown; write one of quorum, async`},
		{"unknown level", minimal + "log: {level: loud}\n", nil, `FILE:9:14: log.level: "loud" is unknown; write one of debug, info, warn, error`},
		{
			"timing that cannot hold", minimal + "timing:\n  margin: 5s\n", nil,
			"FILE:10:11: timing: margin 5s + 2 × renew 3s = 11s ≥ ttl 10s: a lease would end before its second renewal; raise ttl above 11s, or lower renew or margin",
		},
		{"priority below zero", minimal + "tags: {failover_priority: -1}\n", nil, "FILE:9:27: tags.failover_priority: -1 is below zero; write 0 for never, or a number above it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := write(t, tt.text)
			_, err := config.Load(config.Options{File: path, Env: tt.env})
			require.Error(t, err)
			require.Equal(t, tt.want, strings.ReplaceAll(err.Error(), path, "FILE"))
			require.NotContains(t, err.Error(), "hunter")
			var typed *config.Error
			require.ErrorAs(t, err, &typed)
		})
	}
}

func TestMissingFile(t *testing.T) {
	t.Parallel()
	_, err := config.Load(config.Options{File: "/nowhere/pghad.yaml"})
	require.EqualError(t, err, "/nowhere/pghad.yaml: no such file")
	_, err = config.Load(config.Options{File: "/"})
	require.EqualError(t, err, "/: is a directory")
}

func TestProblemFoundLater(t *testing.T) {
	t.Parallel()
	cfg := load(t, minimal)
	require.EqualError(t, cfg.Problem("cluster", "is known by another name"), cfg.File()+":1:10: cluster: is known by another name")
	require.EqualError(t, cfg.Problem("postgres.port", "5432 is in use"), "postgres.port: 5432 is in use")
}

// TestProblemsOfStores: as TestProblems, for the section dcs alone.
func TestProblemsOfStores(t *testing.T) {
	t.Parallel()
	const zookeeper = "type: zookeeper\nendpoints: [zk1:2181]\n"
	const embedded = "type: embedded\nendpoints: [http://127.0.0.1:1, http://127.0.0.1:3, http://127.0.0.1:5]\n"
	const members = "embedded: {listen: http://127.0.0.1:1, members: {a: http://127.0.0.1:2, b: http://127.0.0.1:4, c: http://127.0.0.1:6}}\n"
	const open = "; set dcs.tls with ca_file, cert_file and key_file, by which members and nodes show who they are"
	const hash = "5cEgOfTIUGsjNNeZoXgvu4Zo8sA="
	tests := []struct{ name, text, want string }{
		{"no endpoint", "type: zookeeper\nendpoints: []\n", "5:14: dcs.endpoints: names no server; write a list, like [10.0.0.1:2181]"},
		{"address of etcd", "type: zookeeper\nendpoints: [http://zk1:2181]\n", `5:14: dcs.endpoints: "http://zk1:2181" is not an address of ZooKeeper; write it like 10.0.0.1:2181`},
		{"connection string", "type: zookeeper\nendpoints: ['zk1:2181,zk2:2181']\n", `5:14: dcs.endpoints: "zk1:2181,zk2:2181" holds several addresses; write each as an element of the list`},
		{"address with a path", "type: zookeeper\nendpoints: [zk1:2181/pghad]\n", `5:14: dcs.endpoints: "zk1:2181/pghad" has a path after the port; write that as dcs.chroot`},
		{"impossible port", "type: zookeeper\nendpoints: [zk1:0]\n", `5:14: dcs.endpoints: "zk1:0" has no port; write it like 10.0.0.1:2181`},
		{"address with a password", "type: zookeeper\nendpoints: ['u:hunter2@zk1:2181']\n", `5:14: dcs.endpoints: "[redacted]@zk1:2181" is not an address; write it like 10.0.0.1:2181`},
		{"relative chroot", zookeeper + "chroot: pghad\n", `6:11: dcs.chroot: "pghad" does not start with a slash; write it like /pghad`},
		{"chroot with a slash too many", zookeeper + "chroot: /pghad/\n", `6:11: dcs.chroot: "/pghad/" ends with a slash; write it like /pghad`},
		{"chroot of ZooKeeper itself", zookeeper + "chroot: /zookeeper/quota\n", `6:11: dcs.chroot: "/zookeeper/quota" is ZooKeeper's own; write another path, like /pghad`},
		{"user with a colon", zookeeper + "username: 'a:b'\npassword: x\n", `6:13: dcs.username: "a:b" has a colon in it, after which ZooKeeper would read the password; write another name`},
		{"user without password", zookeeper + "username: u\n", "6:13: dcs.username: has no password; set dcs.password_file"},
		{"no ACL", zookeeper + "acl: []\n", "6:8: dcs.acl: permits nobody anything; write a list, like [auth::cdrwa], or remove the key"},
		{"not an ACL", zookeeper + "acl: [everybody]\n", `6:8: dcs.acl: "everybody" is not scheme:id:permissions; write it like auth::cdrwa or world:anyone:r`},
		{"unknown permission", zookeeper + "acl: ['world:anyone:rx']\n", `6:8: dcs.acl: "world:anyone:rx" permits "x", which is none of c (create), d (delete), r (read), w (write) and a (admin)`},
		{"no permission", zookeeper + "acl: ['world:anyone:']\n", `6:8: dcs.acl: "world:anyone:" permits nothing; write letters of cdrwa after the last colon`},
		{"world that is somebody", zookeeper + "acl: ['world:me:r']\n", `6:8: dcs.acl: "world:me:r": the scheme world has one id only; write world:anyone:r`},
		{"auth that is somebody", zookeeper + "acl: ['auth:me:r']\n", `6:8: dcs.acl: "auth:me:r": the scheme auth is whoever is logged in, and has no id; write auth::r`},
		{"auth of nobody", zookeeper + "acl: ['auth::cdrwa']\n", `6:8: dcs.acl: "auth::cdrwa" is for whoever is logged in, and pghad has no user; set dcs.username and dcs.password_file, or write another scheme`},
		{
			"digest of a password", zookeeper + "acl: ['digest:u:hunter2:cdrwa']\n",
			"6:8: dcs.acl: the scheme digest needs the user and the hash of user:password, never the password itself; write digest:user:hash:permissions, or auth::cdrwa for dcs.username",
		},
		{
			"locked out", zookeeper + "username: u\npassword: x\nacl: ['world:anyone:r', 'digest:u:" + hash + ":cw', 'digest:v:" + hash + ":cdrwa']\n",
			"8:8: dcs.acl: does not permit pghad itself to create, delete, read and write (d is missing); add auth::cdrwa",
		},
		{"locked out without a user", zookeeper + "acl: ['world:anyone:r']\n", "6:8: dcs.acl: does not permit pghad itself to create, delete, read and write (cdw is missing); add world:anyone:cdrwa"},
		{"half a certificate", zookeeper + "tls: {cert_file: /c}\n", ": dcs.tls: cert_file and key_file belong together; give both or none"},
		{"relative path", zookeeper + "tls: {ca_file: ca}\n", `6:18: dcs.tls.ca_file: "ca" depends on where pghad is started; write the path from the root, with / at the front`},

		{
			"no members", embedded + "embedded: {listen: http://127.0.0.1:1}\n",
			": dcs.embedded.members: is missing; write where the members reach each other, like {a: https://10.0.0.1:2380, b: https://10.0.0.2:2380, c: https://10.0.0.3:2380}",
		},
		{
			"even members", embedded + "embedded: {listen: http://127.0.0.1:1, members: {a: http://127.0.0.1:2, b: http://127.0.0.1:4}}\n",
			"6:52: dcs.embedded.members: names 2 nodes, of which as few may be lost as of 1; write an odd number, three or five",
		},
		{
			"another number of endpoints", embedded + "embedded: {listen: http://127.0.0.1:1, members: {a: http://127.0.0.1:2}}\n",
			"6:52: dcs.embedded.members: names 1 nodes, and dcs.endpoints has 3 addresses; write one for each member",
		},
		{
			"bad peer", embedded + strings.Replace(members, "http://127.0.0.1:4", "127.0.0.1:4", 1),
			`6:52: dcs.embedded.members: "127.0.0.1:4" is not an address; write it like http://10.0.0.1:2379`,
		},
		{"not a member", embedded + strings.Replace(members, "a: ", "d: ", 1), "6:52: dcs.embedded.members: does not name this node, a; write dcs.type: etcd on nodes that have no member"},
		{"no address of its own", embedded + strings.Replace(members, "listen: http://127.0.0.1:1, ", "", 1), ": dcs.embedded.listen: is missing; write the one of dcs.endpoints that is this node's own"},
		{
			"another address", embedded + strings.Replace(members, "listen: http://127.0.0.1:1", "listen: http://127.0.0.1:7", 1),
			`6:22: dcs.embedded.listen: "http://127.0.0.1:7" is none of dcs.endpoints; write the one that is this node's own`,
		},
		{
			"open to other machines", strings.ReplaceAll(embedded+members, "127.0.0.1", "10.0.0.1"),
			"6:22: dcs.embedded.listen: other machines can reach http://10.0.0.1:1, and whoever does could change the cluster's records" + open +
				"\nFILE:6:51: dcs.embedded.members: other machines can reach http://10.0.0.1:2, and whoever does could change the cluster's records" + open,
		},
		{
			"name to listen at", strings.Replace(embedded, "127.0.0.1:1", "localhost:1", 1) + strings.Replace(members, "127.0.0.1:1", "localhost:1", 1),
			`6:22: dcs.embedded.listen: "http://localhost:1" is where this node's member listens, and that must be one IP address; write it like https://10.0.0.1:2379`,
		},
		{
			"data in data", embedded + strings.Replace(members, "listen:", "data_dir: /data/etcd, listen:", 1),
			"6:24: dcs.embedded.data_dir: /data/etcd is inside postgres.data_dir, so a copy of the data would copy it too; write a directory beside it",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			section := "dcs:\n  " + strings.ReplaceAll(strings.TrimSuffix(tt.text, "\n"), "\n", "\n  ") + "\n"
			path := write(t, strings.Replace(minimal, "dcs:\n  endpoints: [http://127.0.0.1:2379]\n", section, 1))
			_, err := config.Load(config.Options{File: path})
			want := "FILE:" + tt.want
			if strings.HasPrefix(tt.want, ":") {
				want = "FILE" + tt.want
			}
			require.Error(t, err)
			require.Equal(t, want, strings.ReplaceAll(err.Error(), path, "FILE"))
			require.NotContains(t, err.Error(), "hunter")
		})
	}
}
