package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pghad/pghad/ha/record"
)

// Record is what is set for the whole cluster: values of the keys that are marked
// Cluster in the table of Keys. It is never changed once it is made; nil is an empty
// one.
type Record struct {
	version uint64
	nonce   string
	values  []recordValue // in the order of the table
}

type recordValue struct {
	key   Key
	value value
}

// Version is that of the record in the store, 0 where it is not from there.
func (r *Record) Version() uint64 {
	if r == nil {
		return 0
	}
	return r.version
}

// Nonce tells records of the same version apart.
func (r *Record) Nonce() string {
	if r == nil {
		return ""
	}
	return r.nonce
}

// Sets reports whether a key is set.
func (r *Record) Sets(key string) bool {
	return slices.ContainsFunc(r.all(), func(v recordValue) bool { return v.key.Name == key })
}

// Empty reports whether nothing is set.
func (r *Record) Empty() bool { return r == nil || len(r.values) == 0 }

func (r *Record) all() []recordValue {
	if r == nil {
		return nil
	}
	return r.values
}

// recordOrigin is where the values of a record come from.
func recordOrigin(version uint64) origin {
	return origin{variable: fmt.Sprintf("cluster's record, version %d", version)}
}

// DecodeRecord reads what the store holds. Its error is an *Error that names every
// key which this version does not know, which is not cluster-wide, or whose value is
// not of its type.
func DecodeRecord(stored record.Config) (*Record, error) {
	at := recordOrigin(stored.Version)
	root := value{at: at, kind: mapping}
	for _, name := range slices.Sorted(maps.Keys(stored.Values)) {
		v, err := fromJSON(at, stored.Values[name])
		if err != nil {
			return nil, &Error{[]Problem{{Where: at.String(), Key: name, Sentence: err.Error()}}}
		}
		root.fields = append(root.fields, field{name: name, at: at, value: v})
	}
	r, err := newRecord(root.fields)
	if err != nil {
		return nil, err
	}
	r.version, r.nonce = stored.Version, stored.Nonce
	return r, nil
}

// ParseRecord reads a record as a person writes it: YAML like the file of a node.
// name is what problems call it. Its error is an *Error.
func ParseRecord(name string, data []byte) (*Record, error) {
	root, problem := parse(name, data)
	if problem != nil {
		return nil, &Error{[]Problem{*problem}}
	}
	return newRecord(flatten("", root.fields))
}

// flatten gives the fields of nested headings their full names.
func flatten(prefix string, fields []field) []field {
	var flat []field
	for _, f := range fields {
		f.name = prefix + f.name
		heading := slices.ContainsFunc(Keys(), func(k Key) bool { return strings.HasPrefix(k.Name, f.name+".") })
		switch {
		case heading && f.kind == mapping:
			flat = append(flat, flatten(f.name+".", f.fields)...)
		case heading && f.kind == null: // nothing under a heading is nothing
		default:
			flat = append(flat, f)
		}
	}
	return flat
}

// newRecord checks names and types.
func newRecord(fields []field) (*Record, error) {
	l := &loader{keys: clusterKeys(), config: &Config{origins: map[string]origin{}}}
	r := &Record{}
	for _, f := range fields {
		i := slices.IndexFunc(l.keys, func(k Key) bool { return k.Name == f.name })
		switch {
		case i < 0:
			l.problem(f.at, f.name, notClusterWide(f.name))
		case f.kind == null:
			l.problem(f.at, f.name, "has no value; write one or remove the key")
		case l.isSet(f.name):
			l.problem(f.at, f.name, "is there twice; remove one")
		default:
			before := len(l.problems)
			l.set(l.keys[i], f.value)
			if len(l.problems) == before {
				r.values = append(r.values, recordValue{l.keys[i], f.value})
			}
		}
	}
	if len(l.problems) > 0 {
		return nil, &Error{l.problems}
	}
	r.sort()
	return r, nil
}

func (r *Record) sort() {
	order := func(v recordValue) int {
		return slices.IndexFunc(Keys(), func(k Key) bool { return k.Name == v.key.Name })
	}
	slices.SortFunc(r.values, func(a, b recordValue) int { return cmp.Compare(order(a), order(b)) })
}

// clusterKeys are the keys that a record may hold.
func clusterKeys() []Key {
	return slices.DeleteFunc(Keys(), func(k Key) bool { return !k.Cluster })
}

// notClusterWide says why a key cannot be in a record, and what to write instead.
func notClusterWide(name string) string {
	if slices.ContainsFunc(Keys(), func(k Key) bool { return k.Name == name }) {
		return "is not cluster-wide; set it in the file of each node"
	}
	var names []string
	for _, key := range clusterKeys() {
		names = append(names, key.Name)
	}
	if meant := nearest(name, names); meant != "" {
		return "unknown key; did you mean " + meant + "?"
	}
	for _, wide := range names {
		if wide[strings.LastIndexByte(wide, '.')+1:] == name {
			return "unknown key; did you mean " + wide + "?"
		}
	}
	return "unknown key; those that are cluster-wide are " + strings.Join(names, ", ")
}

// fromJSON reads a value of the store. Its error is the rest of a sentence that
// begins with the key.
func fromJSON(at origin, raw json.RawMessage) (value, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var decoded any
	if err := decoder.Decode(&decoded); err != nil {
		return value{}, fmt.Errorf("cannot be read: %w", err)
	}
	return valueOf(at, decoded), nil
}

func valueOf(at origin, decoded any) value {
	v := value{at: at, kind: scalar}
	switch d := decoded.(type) {
	case nil:
		v.kind = null
	case string:
		v.text = d
	case bool:
		v.text = strconv.FormatBool(d)
	case json.Number:
		v.text = d.String()
	case []any:
		v.kind = list
		for _, item := range d {
			v.items = append(v.items, valueOf(at, item))
		}
	case map[string]any:
		v.kind = mapping
		for _, name := range slices.Sorted(maps.Keys(d)) {
			v.fields = append(v.fields, field{name: name, at: at, value: valueOf(at, d[name])})
		}
	}
	return v
}

// config is a configuration that holds the record's values and nothing else.
func (r *Record) config() *Config {
	c := &Config{origins: map[string]origin{}}
	for _, v := range r.all() {
		_ = store(v.key.field(c), v.value) // has been checked
		c.origins[v.key.Name] = v.value.at
	}
	return c
}

// Values are the record as the store keeps it.
func (r *Record) Values() map[string]json.RawMessage {
	values, c := map[string]json.RawMessage{}, r.config()
	for _, v := range r.all() {
		held := v.key.field(c)
		if d, ok := held.(*time.Duration); ok {
			held = d.String()
		}
		values[v.key.Name] = record.Encode(held)
	}
	return values
}

// YAML is the record as a person edits it; "" if it is empty.
func (r *Record) YAML() string {
	var lines yamlWriter
	c := r.config()
	for _, v := range r.all() {
		shown, _ := c.show(v.key)
		lines.line(v.key.Name, shown)
	}
	return lines.String()
}

// ClusterKeys are the keys that a record may hold, in the order of the table.
func ClusterKeys() []Key { return clusterKeys() }

// Edit is a change of one key, or of one element of a map: postgres.parameters.NAME.
type Edit struct {
	Key   string
	Text  string // as an environment variable would have it
	Unset bool
}

// ParseEdit reads "KEY=VALUE".
func ParseEdit(text string) (Edit, error) {
	key, value, ok := strings.Cut(text, "=")
	if !ok || strings.TrimSpace(key) == "" {
		return Edit{}, fmt.Errorf("%q is not KEY=VALUE", text)
	}
	return Edit{Key: strings.TrimSpace(key), Text: value}, nil
}

// With returns a record with edits made, in their order. Its error is an *Error.
// What is to be removed and is not there is no error.
func (r *Record) With(edits []Edit) (*Record, error) {
	fields := map[string]field{}
	for _, v := range r.all() {
		fields[v.key.Name] = field{name: v.key.Name, at: v.value.at, value: v.value}
	}
	var problems []Problem
	for _, edit := range edits {
		if problem := edit.apply(fields); problem != nil {
			problems = append(problems, *problem)
		}
	}
	if len(problems) > 0 {
		return nil, &Error{problems}
	}
	var all []field
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		all = append(all, fields[name])
	}
	return newRecord(all)
}

func (e Edit) apply(fields map[string]field) *Problem {
	at := origin{variable: "--set"}
	if e.Unset {
		at = origin{variable: "--unset"}
	}
	for _, key := range clusterKeys() {
		element, inside := strings.CutPrefix(e.Key, key.Name+".")
		_, isMap := key.field(&Config{}).(*map[string]string)
		switch {
		case e.Key == key.Name && e.Unset:
			delete(fields, key.Name)
			return nil
		case e.Key == key.Name:
			v, problem := key.parse(at, e.Text)
			if problem == nil {
				fields[key.Name] = field{name: key.Name, at: at, value: v}
			}
			return problem
		case inside && isMap && element != "":
			e.applyElement(fields, key.Name, element, at)
			return nil
		}
	}
	return &Problem{Where: at.String(), Key: e.Key, Sentence: notClusterWide(e.Key)}
}

// applyElement changes one element of a map. Names of PostgreSQL's settings know no
// case.
func (e Edit) applyElement(fields map[string]field, name, element string, at origin) {
	changed := value{at: at, kind: mapping}
	for _, f := range fields[name].fields {
		if !strings.EqualFold(f.name, element) {
			changed.fields = append(changed.fields, f)
		}
	}
	if !e.Unset {
		changed.fields = append(changed.fields, field{name: element, at: at, value: value{at: at, kind: scalar, text: e.Text}})
	}
	if len(changed.fields) == 0 {
		delete(fields, name)
		return
	}
	fields[name] = field{name: name, at: at, value: changed}
}

// Change is one difference between two records. Its JSON is stable.
type Change struct {
	Key    string `json:"key"`    // or postgres.parameters.NAME
	Before string `json:"before"` // as YAML, "" if it was not set
	After  string `json:"after"`  // "" if it is not set any more
	Live   bool   `json:"live"`   // false: comes into force when an agent starts
}

// Changes are the differences from one record to another, in the order of the table.
func Changes(from, to *Record) []Change {
	changes := []Change{}
	before, after := from.shown(), to.shown()
	names := slices.Concat(from.names(), to.names())
	slices.SortStableFunc(names, func(a, b shownName) int { return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.name, b.name)) })
	for _, n := range slices.Compact(names) {
		if before[n.name] != after[n.name] {
			changes = append(changes, Change{Key: n.name, Before: before[n.name], After: after[n.name], Live: n.live})
		}
	}
	return changes
}

type shownName struct {
	name  string
	order int
	live  bool
}

func (r *Record) names() []shownName {
	var names []shownName
	for _, v := range r.all() {
		order := slices.IndexFunc(Keys(), func(k Key) bool { return k.Name == v.key.Name })
		if v.value.kind != mapping {
			names = append(names, shownName{v.key.Name, order, v.key.Live})
		}
		for _, f := range v.value.fields {
			names = append(names, shownName{v.key.Name + "." + f.name, order, v.key.Live})
		}
	}
	return names
}

func (r *Record) shown() map[string]string {
	shown, c := map[string]string{}, r.config()
	for _, v := range r.all() {
		if v.value.kind != mapping {
			shown[v.key.Name], _ = c.show(v.key)
		}
		for _, f := range v.value.fields {
			shown[v.key.Name+"."+f.name] = plain(f.text)
		}
	}
	return shown
}
