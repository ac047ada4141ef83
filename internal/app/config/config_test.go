package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/config"
)

// minimal is what a node cannot do without.
const minimal = `cluster: orders
node: a
dcs:
  endpoints: [http://127.0.0.1:2379]
postgres:
  data_dir: /data
  replication:
    password: hunter2
`

// write puts text into a file and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pghad.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func load(t *testing.T, text string, env ...string) *config.Config {
	t.Helper()
	cfg, err := config.Load(config.Options{File: write(t, text), Env: env})
	require.NoError(t, err)
	return cfg
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	cfg := load(t, minimal)
	require.Equal(t, "service", cfg.Namespace)
	require.Equal(t, "orders", cfg.Cluster)
	require.Equal(t, "a", cfg.Node)
	require.False(t, cfg.Bootstrap, "a new cluster is never implied")
	require.Equal(t, config.DCS{Type: "etcd", Endpoints: []string{"http://127.0.0.1:2379"}}, cfg.DCS)
	require.Equal(t, config.Postgres{
		DataDir: "/data", StateDir: "/data.pghad", SocketDir: "/data.pghad/socket",
		Port: 5432, Superuser: "postgres", Database: "postgres",
		Replication:      config.Replication{User: "replicator", Password: config.NewSecret("hunter2")},
		SelfCheckTimeout: 2 * time.Second, Archive: config.Archive{Resend: 1 << 30},
		Rejoin: config.Rejoin{Attempts: 10, Within: time.Hour, Then: "clone"},
	}, cfg.Postgres)
	require.Equal(t, "initdb", cfg.BootstrapFrom)
	require.Zero(t, cfg.API)
	require.Equal(t, config.Timing{
		TTL: 10 * time.Second, Renew: 3 * time.Second, Margin: 2 * time.Second, Observe: time.Second,
		Request: 2 * time.Second, RemovalDelay: 5 * time.Second, ElectionTimeout: 10 * time.Second,
	}, cfg.Timing)
	require.Equal(t, "quorum", cfg.Mode)
	require.True(t, cfg.Strict)
	require.True(t, cfg.Tags.MayWin())
	require.Equal(t, config.Log{Level: "info", Format: "text"}, cfg.Log)
}

func TestFileAndEnvironment(t *testing.T) {
	t.Parallel()
	text := minimal + `  parameters: {max_connections: 50, work_mem: 4MB, jit: off, random_page_cost: 1.10, search_path: '"$user", public'}
  hba:
    - host all all 10.0.0.0/8 scram-sha-256
    - "host db1,db2 app samenet scram-sha-256"
timing:
  ttl: 1m30s
log: {level: debug}
`
	cfg := load(t, text)
	require.Equal(t, map[string]string{
		"max_connections": "50", "work_mem": "4MB", "jit": "off", "random_page_cost": "1.10", "search_path": `"$user", public`,
	}, cfg.Postgres.Parameters, "values stay as they were written")
	require.Equal(t, []string{"host all all 10.0.0.0/8 scram-sha-256", "host db1,db2 app samenet scram-sha-256"}, cfg.Postgres.HBA)
	require.Equal(t, 90*time.Second, cfg.Timing.TTL)

	cfg = load(t, text,
		"PGHAD_NODE=b",
		"PGHAD_DCS_ENDPOINTS=http://x:1, http://y:2",
		"PGHAD_POSTGRES_PARAMETERS={max_connections: 60}",
		"PGHAD_POSTGRES_HBA=host a,b all samenet md5\nhost c all samenet md5\n",
		"PGHAD_POSTGRES_REPLICATION_PASSWORD= #[x: ",
		"PGHAD_TIMING_TTL=20s",
		"PGHAD_BOOTSTRAP=true",
		"PGHAD_LOG_LEVEL=",
		"PGHAD_SERVICE_HOST=10.0.0.1", "PGHAD_PORT=tcp://10.0.0.1:5432",
		"PATH=/bin",
	)
	require.Equal(t, "b", cfg.Node)
	require.Equal(t, []string{"http://x:1", "http://y:2"}, cfg.DCS.Endpoints)
	require.Equal(t, map[string]string{"max_connections": "60"}, cfg.Postgres.Parameters, "a map is replaced, not merged")
	require.Equal(t, []string{"host a,b all samenet md5", "host c all samenet md5"}, cfg.Postgres.HBA)
	require.Equal(t, " #[x: ", cfg.Postgres.Replication.Password.Reveal(), "a secret is taken as it is")
	require.Equal(t, 20*time.Second, cfg.Timing.TTL)
	require.True(t, cfg.Bootstrap)
	require.Equal(t, "debug", cfg.Log.Level, "an empty variable is none")
	require.Equal(t, "PGHAD_NODE: node", cfg.Where("node"))
	require.Equal(t, cfg.File()+":1:10: cluster", cfg.Where("cluster"))
	require.Equal(t, "strict", cfg.Where("strict"))
}

func TestFlagsWin(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(config.Options{
		File:  write(t, minimal),
		Env:   []string{"PGHAD_CLUSTER=env"},
		Flags: []config.Flag{{Name: "--cluster", Key: "cluster", Text: "flag"}},
	})
	require.NoError(t, err)
	require.Equal(t, "flag", cfg.Cluster)
	require.Equal(t, "--cluster: cluster", cfg.Where("cluster"))
}

func TestEverythingByEnvironment(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(config.Options{Env: []string{
		"PGHAD_CLUSTER=orders", "PGHAD_NODE=a", `PGHAD_DCS_ENDPOINTS=["http://x:1"]`,
		"PGHAD_POSTGRES_DATA_DIR=/data", "PGHAD_POSTGRES_REPLICATION_PASSWORD=x",
	}})
	require.NoError(t, err)
	require.Equal(t, []string{"http://x:1"}, cfg.DCS.Endpoints)
}

func TestClientNeedsLess(t *testing.T) {
	t.Parallel()
	file := write(t, "cluster: orders\ndcs: {endpoints: [\"http://x:1\"]}\npostgres: {replication: {password_file: /not/readable/here}}\n")
	_, err := config.Load(config.Options{File: file, Client: true})
	require.NoError(t, err)
	_, err = config.Load(config.Options{Client: true})
	require.EqualError(t, err, "cluster: is missing (name of the cluster, the same on all its nodes); set it in the file or by PGHAD_CLUSTER\n"+
		"dcs.endpoints: is missing (addresses of the store's servers, http://host:port or https://host:port each, for zookeeper host:port or host); set it in the file or by PGHAD_DCS_ENDPOINTS")
}

func TestSecretFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, empty, long := filepath.Join(dir, "good"), filepath.Join(dir, "empty"), filepath.Join(dir, "long")
	require.NoError(t, os.WriteFile(good, []byte("from file\n"), 0o600))
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	require.NoError(t, os.WriteFile(long, []byte("a\nb\n"), 0o600))
	text := func(file string) string {
		return strings.Replace(minimal, "password: hunter2", "password_file: "+file, 1)
	}
	require.Equal(t, "from file", load(t, text(good)).Postgres.Replication.Password.Reveal())
	require.Equal(t, "from env", load(t, text(good), "PGHAD_POSTGRES_REPLICATION_PASSWORD=from env").Postgres.Replication.Password.Reveal())
	require.Equal(t, "from file", load(t, minimal, "PGHAD_POSTGRES_REPLICATION_PASSWORD_FILE="+good).Postgres.Replication.Password.Reveal())

	for file, want := range map[string]string{
		empty:        empty + ": does not hold exactly one line; write the password into it and nothing else",
		long:         long + ": does not hold exactly one line; write the password into it and nothing else",
		dir + "/not": dir + "/not: no such file",
	} {
		path := write(t, text(file))
		_, err := config.Load(config.Options{File: path})
		require.ErrorContains(t, err, path+":8:20: postgres.replication.password_file: "+want)
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	t.Parallel()
	cfg := load(t, minimal, "PGHAD_DCS_USERNAME=u", "PGHAD_DCS_PASSWORD=hunter2", "PGHAD_API_USERNAME=u", "PGHAD_API_PASSWORD=hunter2")
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, *cfg)
		fmt.Fprintf(&out, verb, cfg)
		fmt.Fprintf(&out, verb, cfg.DCS.Password)
	}
	require.NoError(t, json.NewEncoder(&out).Encode(cfg)) //nolint:musttag // any encoding must hide secrets
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "config", cfg, "password", cfg.DCS.Password, "dcs", cfg.DCS)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "config", cfg, "password", cfg.DCS.Password, "dcs", cfg.DCS)
	require.NotContains(t, out.String(), "hunter2")
	require.NotContains(t, out.String(), "68756e74657232")
	require.Contains(t, out.String(), "[redacted]")
	require.Equal(t, "hunter2", cfg.DCS.Password.Reveal())
	require.Empty(t, config.Secret{}.String())
}

func TestAPI(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("hunter2\n"), 0o600))
	cfg := load(t, minimal+"api:\n  listen: 0.0.0.0:8009\n  advertise: db1.example.com:9000\n  username: pghad\n  password_file: "+secret+
		"\n  tls: {cert_file: /cert, key_file: /key, ca_file: /ca, client_certificates: true}\n")
	require.Equal(t, config.API{
		Listen: "0.0.0.0:8009", Advertise: "db1.example.com:9000",
		TLS:      config.APITLS{CertFile: "/cert", KeyFile: "/key", CAFile: "/ca", ClientCertificates: true},
		Username: "pghad", Password: config.NewSecret("hunter2"), PasswordFile: secret,
	}, cfg.API)
	require.False(t, cfg.API.IsZero())
	require.True(t, cfg.API.Protected())

	cfg = load(t, minimal, "PGHAD_API_USERNAME=u", "PGHAD_API_PASSWORD=x", "PGHAD_API_TLS_CERT_FILE=/c", "PGHAD_API_TLS_KEY_FILE=/k")
	require.Equal(t, "x", cfg.API.Password.Reveal())
	require.True(t, cfg.API.Protected())
	// What anybody on this machine may ask needs no secret.
	for _, listen := range []string{"127.0.0.1:8008", "[::1]:8008", "localhost:8008", "127.0.0.1:0"} {
		cfg = load(t, minimal, "PGHAD_API_LISTEN="+listen)
		require.False(t, cfg.API.Protected())
	}
	// Only a node needs the secret.
	_, err := config.Load(config.Options{
		File: write(t, minimal+"api: {username: u, password_file: /not/readable/here}\n"), Client: true,
	})
	require.NoError(t, err)
}

func TestAPIAddresses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		api               config.API
		listen, advertise string
	}{
		{config.API{}, "10.0.0.11:8008", "10.0.0.11:8008"},
		{config.API{Listen: "10.0.0.12:1"}, "10.0.0.12:1", "10.0.0.12:1"},
		{config.API{Listen: "0.0.0.0:1"}, "0.0.0.0:1", "10.0.0.11:1"},
		{config.API{Listen: "[::]:1"}, "[::]:1", "10.0.0.11:1"},
		{config.API{Listen: "127.0.0.1:1", Advertise: "db1:443"}, "127.0.0.1:1", "db1:443"},
		{config.API{Advertise: "db1:443"}, "10.0.0.11:8008", "db1:443"},
	} {
		listen, advertise := tt.api.Addresses("10.0.0.11")
		require.Equal(t, tt.listen, listen)
		require.Equal(t, tt.advertise, advertise)
	}
	listen, advertise := config.API{}.Addresses("2001:db8::1")
	require.Equal(t, "[2001:db8::1]:8008", listen)
	require.Equal(t, listen, advertise)
}

// TestTableHoldsTheStruct: every exported leaf of Config is the field of
// exactly one key, of the name that its path suggests.
func TestTableHoldsTheStruct(t *testing.T) {
	t.Parallel()
	var leaves []string
	var walk func(path string, typ reflect.Type)
	walk = func(path string, typ reflect.Type) {
		for f := range typ.Fields() {
			switch {
			case !f.IsExported():
			case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[config.Secret]():
				walk(path+f.Name+".", f.Type)
			default:
				leaves = append(leaves, path+f.Name)
			}
		}
	}
	walk("", reflect.TypeFor[config.Config]())

	var names, envs []string
	for _, key := range config.Keys() {
		names = append(names, strings.ReplaceAll(key.Name, "_", ""))
		require.NotContains(t, envs, key.Env())
		envs = append(envs, key.Env())
		require.NotEmpty(t, key.Doc)
		require.NotContains(t, key.Doc, ". ", "one sentence")
		require.Regexp(t, `^[a-z_]+(\.[a-z_]+)*$`, key.Name)
		if key.Required() || key.Secret() {
			require.Empty(t, key.Default)
		}
	}
	for i := range leaves {
		leaves[i] = strings.ToLower(leaves[i])
	}
	require.ElementsMatch(t, leaves, names)
}

// TestEveryKeyIsStoredAlone sets each key by its variable and expects exactly
// its own field to change.
func TestEveryKeyIsStoredAlone(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"true or false": "true", "number": "7", "duration": "9s", "list": "http://z:9", "map": "{a: b}", "secret": "s3cret", "text": "/z",
	}
	special := map[string]string{
		"namespace": "zz", "cluster": "zz", "node": "zz", "strict": "false", "log.level": "warn", "log.format": "json", "postgres.listen": "zz",
		"timing.ttl": "11s", "timing.renew": "2s", "timing.margin": "1s", "timing.observe": "2s", "timing.request": "1s",
		"postgres.replication.password": "s3cret", "api.listen": "127.0.0.1:7", "api.advertise": "zz:7",
		"guard.use": "always", "on_exit": "stop", "mode": "async", "bootstrap_from": "existing",
		"postgres.rejoin.then": "hold", "postgres.clone_command": "/copy,{dir}", "api.allow": "10.0.0.0/8",
	}
	// Restricted values, and those on which other fields depend, have tests of their own.
	skip := regexp.MustCompile(`^(backup\..*|dcs\.(type|chroot|acl|username|password|password_file)|dcs\.(tls|embedded)\..*|postgres\.replication\.password_file|postgres\.(data|state)_dir|api\.(username|password|password_file)|api\.tls\..*)$`)
	plain := load(t, minimal)
	for _, key := range config.Keys() {
		if skip.MatchString(key.Name) {
			continue
		}
		text, ok := special[key.Name]
		if !ok {
			text = values[key.Type()]
		}
		cfg := load(t, minimal, key.Env()+"="+text)
		changed := diff("", reflect.ValueOf(*plain), reflect.ValueOf(*cfg))
		require.Equal(t, []string{strings.ReplaceAll(key.Name, "_", "")}, changed)
	}
}

// diff names the exported leaves in which two values differ.
func diff(path string, a, b reflect.Value) []string {
	var names []string
	for f, va := range a.Fields() {
		vb := b.FieldByIndex(f.Index)
		name := strings.ToLower(path + f.Name)
		switch {
		case !f.IsExported():
		case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[config.Secret]():
			names = append(names, diff(name+".", va, vb)...)
		case !reflect.DeepEqual(va.Interface(), vb.Interface()):
			names = append(names, name)
		}
	}
	return names
}

func TestReferenceNamesEveryKey(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, config.WriteReference(&out))
	for _, key := range config.Keys() {
		require.Contains(t, out.String(), "\n"+key.Name+" ("+key.Type()+")  "+key.Env()+"\n")
	}
}

// TestExamples holds the example files against the table: as they stand they are
// valid but for their password files. With every key that they show switched on
// they name all keys, those with a default at their default.
func TestExamples(t *testing.T) {
	t.Parallel()
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("x"), 0o600))
	read := func(name string) string {
		data, err := os.ReadFile("../../../examples/" + name)
		require.NoError(t, err)
		return regexp.MustCompile(`(password_file:) \S+`).ReplaceAllString(string(data), "$1 "+password)
	}
	switchOn := func(text string) string {
		return regexp.MustCompile(`(?m)^( *)#(\S)`).ReplaceAllString(text, "$1$2")
	}
	main := read("pghad.yaml")
	load(t, main)
	full := load(t, strings.ReplaceAll(switchOn(main), "http://", "https://")) // dcs.tls is shown too
	shown := []*config.Config{full}
	for _, name := range []string{"pghad-zookeeper.yaml", "pghad-embedded.yaml"} {
		text := read(name)
		load(t, text)
		shown = append(shown, load(t, switchOn(text)))
	}
	for _, key := range config.Keys() {
		named := slices.ContainsFunc(shown, func(cfg *config.Config) bool { return cfg.Where(key.Name) != key.Name })
		require.True(t, named || key.Secret(), "%s is not in the examples", key.Name)
	}
	plain := load(t, minimal)
	require.Equal(t, plain.DCS.Type, full.DCS.Type)
	require.Equal(t, plain.Timing, full.Timing)
	require.Equal(t, plain.Tags, full.Tags)
	require.Equal(t, plain.Log, full.Log)
	require.Equal(t, plain.Mode, full.Mode)
	require.Equal(t, plain.Strict, full.Strict)
	require.Equal(t, plain.Namespace, full.Namespace)
	require.Equal(t, plain.Postgres.Port, full.Postgres.Port)
	require.Equal(t, plain.Postgres.Replication.User, full.Postgres.Replication.User)
}

// TestStores: what is said of each kind of store is there.
func TestStores(t *testing.T) {
	t.Parallel()
	section := func(text string) string {
		return strings.Replace(minimal, "  endpoints: [http://127.0.0.1:2379]\n", "  "+strings.ReplaceAll(text, "\n", "\n  ")+"\n", 1)
	}
	zookeeper := load(t, section("type: zookeeper\nendpoints: [zk1, 'zk2:2182', '[::1]', '[::1]:2183']\nchroot: /pghad\nusername: u\npassword: x\n"+
		"acl: ['auth::cdrwa', 'world:anyone:r', 'x509:CN=a,O=b:cdrwa']\ntls: {ca_file: /ca}")).DCS
	require.Equal(t, []string{"zk1:2181", "zk2:2182", "[::1]:2181", "[::1]:2183"}, zookeeper.Addresses())
	require.Equal(t, "/pghad", zookeeper.Chroot)
	require.Len(t, zookeeper.ACL, 3)
	acl, err := config.ParseACL(zookeeper.ACL[2])
	require.NoError(t, err)
	require.Equal(t, config.ACL{Scheme: "x509", ID: "CN=a,O=b", Permissions: "cdrwa"}, acl)
	load(t, section("type: zookeeper\nendpoints: [zk1]\nchroot: /\nacl: ['x509:CN=me:r']")) // whom it is about, only the server knows

	three := "type: embedded\nendpoints: [https://10.0.0.1:1, https://b:1, https://c:1]\ntls: {ca_file: /ca, cert_file: /c, key_file: /k}\n" +
		"embedded: {listen: https://10.0.0.1:1, members: {a: https://10.0.0.1:2, b: https://b:2, c: https://c:2}}"
	embedded := load(t, section(three)).DCS
	require.Equal(t, []string{"10.0.0.1:1", "b:1", "c:1"}, embedded.Addresses())
	require.Equal(t, config.Embedded{
		Listen: "https://10.0.0.1:1", DataDir: "/data.etcd", Members: map[string]string{"a": "https://10.0.0.1:2", "b": "https://b:2", "c": "https://c:2"},
	}, embedded.Embedded)
	// Who only looks at the cluster has no member.
	_, err = config.Load(config.Options{File: write(t, section(three)), Env: []string{"PGHAD_NODE=x"}, Client: true})
	require.NoError(t, err)
}
