package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Options say where a configuration comes from.
type Options struct {
	File   string   // "" for none: everything comes from the environment
	Env    []string // "NAME=value", as os.Environ returns it
	Flags  []Flag   // win over both
	Record *Record  // what is set for the whole cluster; wins over all of them
	Client bool     // only to look at a cluster: what only a node needs may be missing, and its secrets are not read
}

// Flag is a value given on the command line.
type Flag struct {
	Name string // as the user knows it: "--cluster"
	Key  string
	Text string // as an environment variable would have it
}

// Load reads and checks a configuration. It changes nothing. Its error is an
// *Error that holds every problem found.
func Load(opts Options) (*Config, error) {
	l := &loader{opts: opts, keys: Keys(), config: &Config{file: opts.File, origins: map[string]origin{}}}
	l.defaults()
	if opts.File != "" {
		l.fromFile(opts.File)
	}
	l.fromEnv(opts.Env)
	for _, flag := range opts.Flags {
		l.fromText(flag.Key, origin{variable: flag.Name}, flag.Text)
	}
	l.secrets()
	l.required()
	return l.finish(opts.Record)
}

// finish adds the record, and looks at the whole.
func (l *loader) finish(r *Record) (*Config, error) {
	// Not the environment and the flags, which may hold secrets.
	l.config.base = &base{opts: Options{File: l.opts.File, Client: l.opts.Client}, config: l.config.clone()}
	l.config.record = r
	l.fromRecord(r)
	if len(l.problems) == 0 {
		l.derive()
		l.check()
	}
	if len(l.problems) > 0 {
		return nil, &Error{Problems: l.problems}
	}
	return l.config, nil
}

// base is a configuration before a record was added to it.
type base struct {
	opts   Options
	config *Config
}

type loader struct {
	opts     Options
	keys     []Key
	config   *Config
	unread   bool // the file could not be read: what is missing is not known
	problems []Problem
}

func (l *loader) problem(at origin, key, sentence string) {
	l.problems = append(l.problems, Problem{Where: at.String(), Key: key, Sentence: sentence})
}

// at reports a problem with the value that a key has.
func (l *loader) at(key, sentence string) {
	where, ok := l.config.origins[key]
	if !ok {
		where = origin{file: l.opts.File}
	}
	l.problem(where, key, sentence)
}

// isSet reports whether a key was given.
func (l *loader) isSet(key string) bool {
	_, ok := l.config.origins[key]
	return ok
}

func (l *loader) defaults() {
	for _, key := range l.keys {
		if key.Default == "" {
			continue
		}
		if err := store(key.field(l.config), value{kind: scalar, text: key.Default}); err != nil {
			panic(fmt.Sprintf("config: default of %s %s", key.Name, err)) // the table is ours
		}
	}
}

func (l *loader) fromFile(name string) {
	data, err := os.ReadFile(name) //nolint:gosec // the operator names the file
	if err != nil {
		l.unread = true
		l.problem(origin{file: name}, "", fileSentence(err))
		return
	}
	v, problem := parse(name, data)
	if problem != nil {
		l.unread = true
		l.problems = append(l.problems, *problem)
		return
	}
	l.walk("", v)
}

// fileSentence is the reason without the path, which the reader knows.
func fileSentence(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file"
	case errors.Is(err, fs.ErrPermission):
		return "no permission to read it; make it readable for the user that pghad runs as"
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err.Error()
	}
	return err.Error()
}

// walk stores the fields of a mapping whose keys begin with prefix.
func (l *loader) walk(prefix string, v value) {
	for _, f := range v.fields {
		name := prefix + f.name
		i := slices.IndexFunc(l.keys, func(k Key) bool { return k.Name == name })
		group := slices.ContainsFunc(l.keys, func(k Key) bool { return strings.HasPrefix(k.Name, name+".") })
		switch {
		case i < 0 && !group:
			l.problem(f.at, name, "unknown key; "+l.instead(prefix, f.name))
		case group && f.kind == mapping:
			l.walk(name+".", f.value)
		case group && f.kind != null: // nothing under a heading is nothing
			l.problem(f.value.at, name, fmt.Sprintf("has %s; write keys below it: %s", f.kind, strings.Join(l.names(name+"."), ", ")))
		case !group && f.kind == null:
			l.problem(f.at, name, "has no value; write one or remove the key")
		case !group:
			l.set(l.keys[i], f.value)
		}
	}
}

// instead says what to write in place of an unknown key.
func (l *loader) instead(prefix, name string) string {
	names := l.names(prefix)
	if meant := nearest(name, names); meant != "" {
		return "did you mean " + meant + "?"
	}
	for _, key := range l.keys {
		if last := key.Name[strings.LastIndexByte(key.Name, '.')+1:]; last == name {
			return "did you mean " + key.Name + "?"
		}
	}
	return "the keys here are " + strings.Join(names, ", ")
}

// names are the words that may follow prefix, in the order of the table.
func (l *loader) names(prefix string) []string {
	var names []string
	for _, key := range l.keys {
		if rest, ok := strings.CutPrefix(key.Name, prefix); ok {
			first, _, _ := strings.Cut(rest, ".")
			if !slices.Contains(names, first) {
				names = append(names, first)
			}
		}
	}
	return names
}

func (l *loader) set(key Key, v value) {
	if err := store(key.field(l.config), v); err != nil {
		l.problem(v.at, key.Name, err.Error())
		return
	}
	l.config.origins[key.Name] = v.at
}

// secrets reads the files that hold secrets.
func (l *loader) secrets() {
	l.secret("dcs.password", &l.config.DCS.Password, &l.config.DCS.PasswordFile)
	if !l.opts.Client {
		l.secret("postgres.replication.password", &l.config.Postgres.Replication.Password, &l.config.Postgres.Replication.PasswordFile)
		l.secret("api.password", &l.config.API.Password, &l.config.API.PasswordFile)
	}
}

// secret fills a secret from its file. Where both are given, the one from the
// environment wins; from the same source they contradict each other.
func (l *loader) secret(key string, secret *Secret, file *string) {
	if *file == "" {
		return
	}
	fileKey := key + "_file"
	if !secret.IsZero() {
		direct, viaFile := l.config.origins[key].variable != "", l.config.origins[fileKey].variable != ""
		switch {
		case direct == viaFile:
			l.at(fileKey, "contradicts "+key+"; give one of them")
			return
		case direct:
			*file = ""
			return
		}
	}
	found, err := ReadSecretFile(*file)
	if err != nil {
		l.at(fileKey, err.Error())
		return
	}
	*secret = found
}

// ReadSecretFile reads a file that holds a password. Its error begins with the file's
// name, and shows nothing of what is in it.
func ReadSecretFile(path string) (Secret, error) {
	file, err := os.Open(path) //nolint:gosec // of the user's configuration
	if err != nil {
		return Secret{}, fmt.Errorf("%s: %s", path, fileSentence(err))
	}
	defer file.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	if err != nil {
		return Secret{}, fmt.Errorf("%s: %s", path, fileSentence(err))
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" || len(text) > maxSecret || strings.ContainsAny(text, "\r\n\x00") {
		return Secret{}, fmt.Errorf("%s: does not hold exactly one line; write the password into it and nothing else", path)
	}
	return NewSecret(text), nil
}

// maxSecret is far beyond any password: a file that is longer is another one.
const maxSecret = 64 << 10

// required reports the keys that are missing.
func (l *loader) required() {
	if l.unread {
		return
	}
	for _, key := range l.keys {
		if key.need == optional || (l.opts.Client && key.need != forClient) || l.isSet(key.Name) || l.complained(key.Name) {
			continue
		}
		l.problem(origin{file: l.opts.File}, key.Name, "is missing ("+key.Doc+"); set it in the file or by "+key.Env())
	}
}

// complained reports whether a problem with the key has been found already.
func (l *loader) complained(name string) bool {
	return slices.ContainsFunc(l.problems, func(p Problem) bool { return p.Key == name })
}
