package config

import (
	"strings"
	"time"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/pg/pgctl"
)

// need says who cannot do without a key.
type need int

const (
	optional  need = iota
	forRun         // needed to run a node
	forClient      // needed even to look at a cluster
)

// Key is one key of the configuration.
type Key struct {
	Name    string // with dots between the levels
	Default string // as one would write it; "" where Note says what it is, or there is none
	Note    string // says for people what the default is where it depends on something
	Doc     string // one sentence
	OneOf   []string
	// Cluster: it can be set for the whole cluster, in the record that every node
	// reads (pghad edit-config). There it wins over file and environment.
	Cluster bool
	// Live: a running node takes a change up, when the record changes or when it is
	// told to read its file again (SIGHUP). Any other one needs a restart of pghad.
	Live bool

	need  need
	split string // separates the elements of a list in the environment; "" is ","
	field func(*Config) any
}

// Env is the environment variable that sets the key.
func (k Key) Env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

// Required reports whether a node cannot run without it.
func (k Key) Required() bool { return k.need != optional }

// Secret reports whether the value is never shown.
func (k Key) Secret() bool {
	_, ok := k.field(&Config{}).(*Secret)
	return ok
}

// Type is the type in words.
func (k Key) Type() string {
	switch k.field(&Config{}).(type) {
	case *bool:
		return "true or false"
	case *int:
		return "number"
	case *time.Duration:
		return "duration"
	case *[]string:
		return "list"
	case *map[string]string:
		return "map"
	case *Secret:
		return "secret"
	}
	return "text"
}

// Keys returns the table of all keys, in the order of the reference.
func Keys() []Key {
	var keys []Key
	for _, part := range [][]Key{identityKeys(), originKeys(), dcsKeys(), postgresKeys(), dutyKeys(), guardKeys(), apiKeys(), timingKeys(), policyKeys()} {
		keys = append(keys, part...)
	}
	return keys
}

func identityKeys() []Key {
	return []Key{
		{
			Name: "namespace", Default: "service", field: func(c *Config) any { return &c.Namespace },
			Doc: "first part of every key in the store: /<namespace>/<cluster>/",
		},
		{
			Name: "cluster", need: forClient, field: func(c *Config) any { return &c.Cluster },
			Doc: "name of the cluster, the same on all its nodes",
		},
		{
			Name: "node", need: forRun, field: func(c *Config) any { return &c.Node },
			Doc: "name of this node, different from every other node of the cluster",
		},
		{
			Name: "bootstrap", Default: "false", field: func(c *Config) any { return &c.Bootstrap },
			Doc: "permission to create a new cluster from this node if the store knows none; set it on one node only",
		},
	}
}

// originKeys say what a new cluster is made of.
func originKeys() []Key {
	return []Key{
		{
			Name: "bootstrap_from", Default: FromInitdb, OneOf: []string{FromInitdb, FromBackup, FromExisting}, field: func(c *Config) any { return &c.BootstrapFrom },
			Doc: "what a cluster that this node creates begins with: nothing (initdb), what backup.command brings, or the data that is in data_dir already, of a primary that was shut down",
		},
		{
			Name: "backup.command", field: func(c *Config) any { return &c.Backup.Command },
			Doc: "program and arguments that fill the data directory, which exists and is empty and is {dir} in them, with a base backup or the data of a server that was shut down",
		},
		{
			Name: "backup.restore_command", Note: "recovery has the WAL that backup.command brings", field: func(c *Config) any { return &c.Backup.RestoreCommand },
			Doc: "restore_command, with %f and %p, by which that recovery gets WAL",
		},
		{
			Name: "backup.target", Note: "the end of the WAL", field: func(c *Config) any { return &c.Backup.Target },
			Doc: "where that recovery ends: time, lsn, name or xid, each with backup.value, or immediate",
		},
		{
			Name: "backup.value", field: func(c *Config) any { return &c.Backup.Value },
			Doc: "value of backup.target, as PostgreSQL reads it",
		},
		{
			Name: "backup.exclusive", Default: "false", field: func(c *Config) any { return &c.Backup.Exclusive },
			Doc: "end right before the target and not behind it",
		},
		{
			Name: "backup.timeline", Note: "latest", field: func(c *Config) any { return &c.Backup.Timeline },
			Doc: "timeline that is recovered: latest, current or a number",
		},
		{
			Name: "existing.config_file", Note: "postgresql.conf in data_dir", field: func(c *Config) any { return &c.Existing.ConfigFile },
			Doc: "postgresql.conf of the server that bootstrap_from: existing takes in, such as /etc/postgresql/15/main/postgresql.conf",
		},
	}
}

func dcsKeys() []Key {
	return append(storeKeys(), []Key{
		{
			Name: "dcs.tls.ca_file", Note: "those of the system", field: func(c *Config) any { return &c.DCS.TLS.CAFile },
			Doc: "certificates (PEM) that the store's certificate must be signed by; read anew for each connection; any key below dcs.tls makes zookeeper be reached by TLS",
		},
		{
			Name: "dcs.tls.cert_file", field: func(c *Config) any { return &c.DCS.TLS.CertFile },
			Doc: "certificate (PEM) by which this node shows who it is; read anew for each connection",
		},
		{
			Name: "dcs.tls.key_file", field: func(c *Config) any { return &c.DCS.TLS.KeyFile },
			Doc: "private key (PEM) of that certificate",
		},
		{
			Name: "dcs.tls.server_name", Note: "the host of the endpoint", field: func(c *Config) any { return &c.DCS.TLS.ServerName },
			Doc: "name that the store's certificate must have",
		},
		{
			Name: "dcs.embedded.members", field: func(c *Config) any { return &c.DCS.Embedded.Members },
			Doc: "nodes that run a member of the embedded etcd, three or five, and where members reach each other, {node: https://host:2380}, the same on all nodes",
		},
		{
			Name: "dcs.embedded.listen", field: func(c *Config) any { return &c.DCS.Embedded.Listen },
			Doc: "the one of dcs.endpoints that is this node's own",
		},
		{
			Name: "dcs.embedded.data_dir", Note: "<postgres.data_dir>.etcd", field: func(c *Config) any { return &c.DCS.Embedded.DataDir },
			Doc: "directory of this node's member of the embedded etcd",
		},
	}...)
}

func storeKeys() []Key {
	return []Key{
		{
			Name: "dcs.type", Default: StoreEtcd, OneOf: []string{StoreEtcd, StoreZooKeeper, StoreEmbedded}, field: func(c *Config) any { return &c.DCS.Type },
			Doc: "kind of the configuration store; embedded is an etcd whose members are run by the nodes themselves",
		},
		{
			Name: "dcs.endpoints", need: forClient, field: func(c *Config) any { return &c.DCS.Endpoints },
			Doc: "addresses of the store's servers, http://host:port or https://host:port each, for zookeeper host:port or host",
		},
		{
			Name: "dcs.chroot", Note: "the root", field: func(c *Config) any { return &c.DCS.Chroot },
			Doc: "path in zookeeper below which all keys are, like /pghad",
		},
		{
			Name: "dcs.acl", Note: "[auth::cdrwa] where a user is set, else [world:anyone:cdrwa]", field: func(c *Config) any { return &c.DCS.ACL },
			Doc: "who may do what with the nodes that pghad makes in zookeeper, scheme:id:permissions each, as its shell has them",
		},
		{
			Name: "dcs.username", field: func(c *Config) any { return &c.DCS.Username },
			Doc: "user at the store, for zookeeper by its digest scheme",
		},
		{
			Name: "dcs.password", field: func(c *Config) any { return &c.DCS.Password },
			Doc: "password of that user; better in a file",
		},
		{
			Name: "dcs.password_file", field: func(c *Config) any { return &c.DCS.PasswordFile },
			Doc: "file that holds the password; read anew when the store asks for it: write the new one here before etcd is given it, and for zookeeper once dcs.acl is for both",
		},
	}
}

func postgresKeys() []Key {
	return append(serverKeys(), []Key{
		{
			Name: "postgres.superuser", Default: "postgres", field: func(c *Config) any { return &c.Postgres.Superuser },
			Doc: "database superuser that pghad works as, over the local socket",
		},
		{
			Name: "postgres.database", Default: "postgres", field: func(c *Config) any { return &c.Postgres.Database },
			Doc: "database that pghad connects to",
		},
		{
			Name: "postgres.replication.user", Default: "replicator", field: func(c *Config) any { return &c.Postgres.Replication.User },
			Doc: "database role by which nodes copy from each other, the same on all of them",
		},
		{
			Name: "postgres.replication.password", field: func(c *Config) any { return &c.Postgres.Replication.Password },
			Doc: "password of that role, the same on all nodes; better in a file",
		},
		{
			Name: "postgres.replication.password_file", field: func(c *Config) any { return &c.Postgres.Replication.PasswordFile },
			Doc: "file that holds the password",
		},
		{
			Name: "postgres.parameters", Cluster: true, Live: true, field: func(c *Config) any { return &c.Postgres.Parameters },
			Doc: "PostgreSQL settings of your own, as in postgresql.conf; those that pghad manages are refused",
		},
		{
			Name: "postgres.hba", Cluster: true, Live: true, split: "\n", field: func(c *Config) any { return &c.Postgres.HBA },
			Doc: "lines of pg_hba.conf that admit your clients; without any, nobody but pghad can connect",
		},
		{
			Name: "postgres.ident", split: "\n", field: func(c *Config) any { return &c.Postgres.Ident },
			Doc: "lines of pg_ident.conf for postgres.hba",
		},
		{
			Name: "postgres.log", Note: "postgresql.log in state_dir", field: func(c *Config) any { return &c.Postgres.Log },
			Doc: "file that PostgreSQL's messages are appended to",
		},
	}...)
}

// dutyKeys say how the server is watched, archived and copied.
func dutyKeys() []Key {
	return []Key{
		{
			Name: "postgres.monitor_user", Note: "postgres.superuser asks", field: func(c *Config) any { return &c.Postgres.MonitorUser },
			Doc: "database role without superuser's rights as which pghad asks how the server is; made in a new cluster, else by the SQL that pgctl.MonitoringRole has",
		},
		{
			Name: "postgres.self_check_timeout", Default: "2s", field: func(c *Config) any { return &c.Postgres.SelfCheckTimeout },
			Doc: "how long a primary may take for a small write before it counts as one that cannot write",
		},
		{
			Name: "postgres.member_slots_ttl", Cluster: true, Note: "for ever", field: func(c *Config) any { return &c.Postgres.MemberSlotsTTL },
			Doc: "how long the replication slot of a node that has left the cluster is kept",
		},
		{
			Name: "postgres.archive.command", Note: "WAL is not archived", field: func(c *Config) any { return &c.Postgres.Archive.Command },
			Doc: "archive_command, with %p and %f, which only a primary with the right to write runs; it must succeed for a file that the archive has already with the same content, and fail for another content",
		},
		{
			Name: "postgres.archive.resend", Default: "1073741824", field: func(c *Config) any { return &c.Postgres.Archive.Resend },
			Doc: "how many bytes of WAL before a promotion the new primary archives again",
		},
		{
			Name: "postgres.clone_command", Note: "pg_basebackup", field: func(c *Config) any { return &c.Postgres.CloneCommand },
			Doc: "program and arguments that copy another node's data, by pgBackRest, Barman or WAL-G for example; {dir}, {host}, {port}, {user}, {passfile} and {conninfo} in them are filled in",
		},
		{
			Name: "postgres.rejoin.attempts", Cluster: true, Default: "10", field: func(c *Config) any { return &c.Postgres.Rejoin.Attempts },
			Doc: "how many rewinds, and how many clones, may fail within postgres.rejoin.within",
		},
		{
			Name: "postgres.rejoin.within", Cluster: true, Default: "1h", field: func(c *Config) any { return &c.Postgres.Rejoin.Within },
			Doc: "how long a failed one counts",
		},
		{
			Name: "postgres.rejoin.then", Cluster: true, Default: string(pgctl.RejoinClone), field: func(c *Config) any { return &c.Postgres.Rejoin.Then },
			OneOf: []string{string(pgctl.RejoinClone), string(pgctl.RejoinAlert), string(pgctl.RejoinHold)},
			Doc:   "what follows after that: clone in place of rewind, alert by a line in the log and go on as slowly as that, or hold until attempts.json is removed from state_dir",
		},
	}
}

func serverKeys() []Key {
	return []Key{
		{
			Name: "postgres.bin_dir", Note: "the newest version that is installed", field: func(c *Config) any { return &c.Postgres.BinDir },
			Doc: "directory of PostgreSQL's programs, version 13 or newer",
		},
		{
			Name: "postgres.data_dir", need: forRun, field: func(c *Config) any { return &c.Postgres.DataDir },
			Doc: "data directory of the server",
		},
		{
			Name: "postgres.state_dir", Note: "<data_dir>.pghad", field: func(c *Config) any { return &c.Postgres.StateDir },
			Doc: "directory for what pghad must remember; never inside data_dir, never copied to another node",
		},
		{
			Name: "postgres.socket_dir", Note: "socket in state_dir", field: func(c *Config) any { return &c.Postgres.SocketDir },
			Doc: "directory of the server's Unix socket",
		},
		{
			Name: "postgres.listen", Note: "the address from which the store is reached", field: func(c *Config) any { return &c.Postgres.Listen },
			Doc: "address that other nodes and clients reach the server at",
		},
		{
			Name: "postgres.port", Default: "5432", field: func(c *Config) any { return &c.Postgres.Port },
			Doc: "port of the server",
		},
		{
			Name: "postgres.os_user", Note: "postgres if pghad runs as root, else its own", field: func(c *Config) any { return &c.Postgres.OSUser },
			Doc: "operating-system user that the server runs as",
		},
	}
}

func apiKeys() []Key {
	return []Key{
		{
			Name: "api.listen", Note: "port 8008 of the address that PostgreSQL is reached at, if anything is set below api; " +
				"else a free port where that address is inside this machine, and nothing where it is not",
			field: func(c *Config) any { return &c.API.Listen },
			Doc:   "host:port at which other nodes ask this one directly, which keeps a primary writable while the store is away",
		},
		{
			Name: "api.advertise", Note: "as api.listen; the address that PostgreSQL is reached at for 0.0.0.0",
			field: func(c *Config) any { return &c.API.Advertise },
			Doc:   "host:port by which other nodes reach api.listen",
		},
		{
			Name: "api.tls.cert_file", Live: true, field: func(c *Config) any { return &c.API.TLS.CertFile },
			Doc: "certificate (PEM) of this node, for the host of api.advertise, which it shows whoever asks and whomever it asks; read anew when it changes",
		},
		{
			Name: "api.tls.key_file", Live: true, field: func(c *Config) any { return &c.API.TLS.KeyFile },
			Doc: "private key (PEM) of that certificate",
		},
		{
			Name: "api.tls.ca_file", Live: true, Note: "those of the system", field: func(c *Config) any { return &c.API.TLS.CAFile },
			Doc: "certificates (PEM) that the other nodes' certificates must be signed by; read anew when it changes",
		},
		{
			Name: "api.tls.client_certificates", Live: true, Default: "false", field: func(c *Config) any { return &c.API.TLS.ClientCertificates },
			Doc: "admit only who shows a certificate that is signed by api.tls.ca_file",
		},
		{
			Name: "api.allow", Live: true, Note: "all", field: func(c *Config) any { return &c.API.Allow },
			Doc: "addresses and networks from which others may ask, like 10.0.0.11 or 10.0.0.0/24, those of all nodes among them; others are refused whatever they show",
		},
		{
			Name: "api.username", Live: true, field: func(c *Config) any { return &c.API.Username },
			Doc: "user that whoever asks must name, the same on all nodes",
		},
		{
			Name: "api.password", Live: true, field: func(c *Config) any { return &c.API.Password },
			Doc: "password of that user, the same on all nodes; better in a file",
		},
		{
			Name: "api.password_file", Live: true, field: func(c *Config) any { return &c.API.PasswordFile },
			Doc: "file that holds the password; read anew when it changes",
		},
	}
}

func timingKeys() []Key {
	return []Key{
		{
			Name: "timing.ttl", Cluster: true, Default: "10s", field: func(c *Config) any { return &c.Timing.TTL },
			Doc: "how long a lock outlives its silent holder",
		},
		{
			Name: "timing.renew", Cluster: true, Default: "3s", field: func(c *Config) any { return &c.Timing.Renew },
			Doc: "how often locks are renewed",
		},
		{
			Name: "timing.margin", Cluster: true, Default: "2s", field: func(c *Config) any { return &c.Timing.Margin },
			Doc: "time kept at the end of a lock's life to stop PostgreSQL",
		},
		{
			Name: "timing.observe", Cluster: true, Default: "1s", field: func(c *Config) any { return &c.Timing.Observe },
			Doc: "how often each node looks at its server and the records",
		},
		{
			Name: "timing.request", Cluster: true, Default: "2s", field: func(c *Config) any { return &c.Timing.Request },
			Doc: "how long one request to the store may take",
		},
		{
			Name: "timing.removal_delay", Cluster: true, Default: "5s", field: func(c *Config) any { return &c.Timing.RemovalDelay },
			Doc: "how long a member may be away before it is taken out of the quorum",
		},
		{
			Name: "timing.election_timeout", Cluster: true, Default: "10s", field: func(c *Config) any { return &c.Timing.ElectionTimeout },
			Doc: "how long one election may take before another is opened",
		},
	}
}

func guardKeys() []Key {
	return []Key{
		{
			Name: "guard.use", Default: GuardAuto, OneOf: []string{GuardAuto, GuardAlways, GuardNever}, field: func(c *Config) any { return &c.Guard.Use },
			Doc: "whether pghad-guard is the parent of PostgreSQL, which stops it when this agent's right to write ends and the agent cannot; auto: where it is found",
		},
		{
			Name: "guard.program", Note: "pghad-guard beside pghad, or in PATH", field: func(c *Config) any { return &c.Guard.Program },
			Doc: "path of pghad-guard",
		},
		{
			Name: "guard.watchdog", field: func(c *Config) any { return &c.Guard.Watchdog },
			Doc: "watchdog device, such as /dev/watchdog, by which the guard resets a machine that is frozen as a whole",
		},
		{
			Name: "guard.watchdog_timeout", Default: "5s", field: func(c *Config) any { return &c.Guard.WatchdogTimeout },
			Doc: "after how long the device does that, in whole seconds",
		},
	}
}

func policyKeys() []Key {
	return []Key{
		{
			Name: "mode", Cluster: true, Live: true, Default: "quorum", OneOf: []string{"quorum", "async"}, field: func(c *Config) any { return &c.Mode },
			Doc: "how commits are made durable before they are acknowledged: in the cluster's record at any time, in a node's own configuration for a cluster that it creates; async: only on the primary, a failover may lose some",
		},
		{
			Name: "maximum_lag_on_failover", Cluster: true, Live: true, Default: "1048576", field: func(c *Config) any { return &c.MaximumLagOnFailover },
			Doc: "in mode async, how many bytes of WAL that the primary has published the winner of an election may lack",
		},
		{
			Name: "on_exit", Live: true, Default: string(ha.ExitHandOver), OneOf: []string{string(ha.ExitHandOver), string(ha.ExitStop), string(ha.ExitKeep)}, field: func(c *Config) any { return &c.OnExit },
			Doc: "what becomes of PostgreSQL when pghad is told to end: hand-over lets another node take over first, keep leaves it to its guard for as long as the lease lasts",
		},
		{
			Name: "strict", Cluster: true, Live: true, Default: "true", field: func(c *Config) any { return &c.Strict },
			Doc: "rather wait than acknowledge a commit that only the primary has",
		},
		{
			Name: "tags.nofailover", Live: true, Default: "false", field: func(c *Config) any { return &c.Tags.NoFailover },
			Doc: "this node never becomes the primary",
		},
		{
			Name: "tags.failover_priority", Live: true, Default: "1", field: func(c *Config) any { return &c.Tags.FailoverPriority },
			Doc: "of nodes with the same data the one with the highest number becomes the primary; 0 means never",
		},
		{
			Name: "log.level", Live: true, Default: "info", OneOf: []string{"debug", "info", "warn", "error"}, field: func(c *Config) any { return &c.Log.Level },
			Doc: "least severity of the messages that are logged",
		},
		{
			Name: "log.format", Default: "text", OneOf: []string{"text", "json"}, field: func(c *Config) any { return &c.Log.Format },
			Doc: "form of the log on standard error",
		},
	}
}
