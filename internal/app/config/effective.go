package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// WithRecord returns the configuration as it is with what a record sets for the
// whole cluster, in place of the record that it was made with. Its error is an
// *Error: the values of the record and those of this node do not fit together.
func (c *Config) WithRecord(r *Record) (*Config, error) {
	l := &loader{opts: c.base.opts, keys: Keys(), config: c.base.config.clone()}
	return l.finish(r)
}

// Record is the record that the configuration was made with, nil for none.
func (c *Config) Record() *Record { return c.record }

func (c *Config) clone() *Config {
	copied := *c
	copied.origins = maps.Clone(c.origins)
	return &copied
}

// fromRecord stores what is set for the whole cluster. Maps are merged by name.
func (l *loader) fromRecord(r *Record) {
	for _, v := range r.all() {
		at := v.value.at
		if before, ok := l.config.origins[v.key.Name]; ok {
			at.over = before.String()
		}
		if held, ok := v.key.field(l.config).(*map[string]string); ok {
			set := map[string]string{}
			_ = storeMap(&set, v.value) // has been checked
			*held = mergeFold(*held, set)
		} else if err := store(v.key.field(l.config), v.value); err != nil {
			l.problem(v.value.at, v.key.Name, err.Error())
			continue
		}
		l.config.origins[v.key.Name] = at
	}
}

// mergeFold is under with over laid on it, by names that know no case.
func mergeFold(under, over map[string]string) map[string]string {
	merged := maps.Clone(over)
	for name, text := range under {
		if !hasFold(over, name) {
			merged[name] = text
		}
	}
	return merged
}

// Effective is what an agent that runs by c can put in force of wanted without a
// restart. keys are those whose change came into force, pending those that keep their
// value until a restart. fixed begin the names of keys that this agent cannot change
// although they are live. Its error is an *Error: the mixture of both does not hold
// together, and nothing of it is to be put in force.
func (c *Config) Effective(wanted *Config, fixed ...string) (mixed *Config, keys, pending []string, err error) {
	mixed = wanted.clone()
	for _, key := range Keys() {
		now, then := key.field(c), key.field(mixed)
		switch {
		case reflect.DeepEqual(now, then):
		case key.Name == "dcs.password" && c.DCS.PasswordFile != "" && c.DCS.PasswordFile == wanted.DCS.PasswordFile:
			// Its file is read anew whenever the store asks for the password.
		case key.Live && !slices.ContainsFunc(fixed, func(f string) bool { return strings.HasPrefix(key.Name, f) }):
			keys = append(keys, key.Name)
		default:
			pending = append(pending, key.Name)
			reflect.ValueOf(then).Elem().Set(reflect.ValueOf(now).Elem())
			if from, ok := c.origins[key.Name]; ok {
				mixed.origins[key.Name] = from
			} else {
				delete(mixed.origins, key.Name)
			}
		}
	}
	l := &loader{opts: wanted.base.opts, keys: Keys(), config: mixed}
	if l.check(); len(l.problems) > 0 {
		return nil, nil, nil, &Error{Problems: l.problems}
	}
	return mixed, keys, pending, nil
}

// hasFold reports whether a name is there, in whatever case.
func hasFold(names map[string]string, name string) bool {
	for other := range names {
		if strings.EqualFold(other, name) {
			return true
		}
	}
	return false
}
