package config

import (
	"slices"
	"strings"
)

const envPrefix = "PGHAD_"

// foreignPrefixes begin variables that Kubernetes sets in every container for
// a service called pghad.
var foreignPrefixes = []string{envPrefix + "SERVICE_", envPrefix + "PORT"}

// fromEnv stores what env ("NAME=value") says.
func (l *loader) fromEnv(env []string) {
	names := make([]string, len(l.keys))
	for i, key := range l.keys {
		names[i] = key.Env()
	}
	for _, entry := range slices.Sorted(slices.Values(env)) {
		name, text, _ := strings.Cut(entry, "=")
		foreign := slices.ContainsFunc(foreignPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if !strings.HasPrefix(name, envPrefix) || foreign || text == "" {
			continue
		}
		at := origin{variable: name}
		i := slices.Index(names, name)
		if i < 0 {
			sentence := "unknown variable; remove it, or see pghad help config for those that exist"
			if meant := nearest(name, lower(names)); meant != "" {
				sentence = "unknown variable; did you mean " + strings.ToUpper(meant) + "?"
			}
			l.problem(at, "", sentence)
			continue
		}
		l.fromText(l.keys[i].Name, at, text)
	}
}

// fromText stores the text of a variable or flag.
func (l *loader) fromText(name string, at origin, text string) {
	i := slices.IndexFunc(l.keys, func(k Key) bool { return k.Name == name })
	v, problem := l.keys[i].parse(at, text)
	if problem != nil {
		l.problems = append(l.problems, *problem)
		return
	}
	l.set(l.keys[i], v)
}

func lower(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = strings.ToLower(name)
	}
	return out
}

// parse reads the text of a variable or flag. Only lists and maps are YAML: a
// password may contain anything.
func (k Key) parse(at origin, text string) (value, *Problem) {
	trimmed := strings.TrimSpace(text)
	switch k.field(&Config{}).(type) {
	case *[]string:
		if !strings.HasPrefix(trimmed, "[") {
			return k.splitText(at, text), nil
		}
	case *map[string]string:
		if !strings.HasPrefix(trimmed, "{") {
			return value{}, &Problem{Where: at.String(), Key: k.Name, Sentence: "not a map; write {name: value, name: value}"}
		}
	default:
		return value{at: at, kind: scalar, text: text}, nil
	}
	v, problem := parseFlow(trimmed)
	if problem != nil {
		return value{}, &Problem{Where: at.String(), Key: k.Name, Sentence: problem.Sentence}
	}
	v.at = at
	return v, nil
}

// parseFlow reads "[...]" or "{...}".
func parseFlow(text string) (value, *Problem) {
	v, problem := parse("", []byte("value: "+text))
	if problem != nil {
		return value{}, problem
	}
	return v.fields[0].value, nil
}

func (k Key) splitText(at origin, text string) value {
	separator := k.split
	if separator == "" {
		separator = ","
	}
	v := value{at: at, kind: list}
	for item := range strings.SplitSeq(text, separator) {
		if item = strings.TrimSpace(item); item != "" {
			v.items = append(v.items, value{at: at, kind: scalar, text: item})
		}
	}
	return v
}
