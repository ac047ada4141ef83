package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// kind is the shape of a value, before it is known which key it is for.
type kind string

const (
	null    kind = "nothing"
	scalar  kind = "a single value"
	list    kind = "a list"
	mapping kind = "a map"
)

// value is what a file or a variable holds.
type value struct {
	at     origin
	kind   kind
	text   string // of a scalar
	items  []value
	fields []field
}

type field struct {
	name string
	at   origin
	value
}

// store writes v to the field that target points to. Its error is the rest of
// a sentence that begins with the key.
func store(target any, v value) error {
	switch t := target.(type) {
	case *[]string:
		return storeList(t, v)
	case *map[string]string:
		return storeMap(t, v)
	}
	if v.kind != scalar {
		return fmt.Errorf("has %s; write a single value", v.kind)
	}
	switch t := target.(type) {
	case *string:
		*t = v.text
	case *Secret:
		*t = NewSecret(v.text)
	case *bool:
		return storeBool(t, v.text)
	case *int:
		n, err := strconv.Atoi(v.text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", v.text)
		}
		*t = n
	case *time.Duration:
		return storeDuration(t, v.text)
	default:
		panic(fmt.Sprintf("config: no rule for a field of type %T", target)) // the table is ours
	}
	return nil
}

func storeBool(target *bool, text string) error {
	switch text {
	case "true":
		*target = true
	case "false":
		*target = false
	default:
		return fmt.Errorf("%q is neither true nor false", text)
	}
	return nil
}

func storeDuration(target *time.Duration, text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return fmt.Errorf("%s has no unit; write %ss", text, text)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration; write a number and a unit (ms, s, m or h), like 10s or 500ms", text)
	}
	*target = d
	return nil
}

func storeList(target *[]string, v value) error {
	if v.kind != list {
		return fmt.Errorf("has %s; write a list, like [a, b]", v.kind)
	}
	items := make([]string, len(v.items))
	for i, item := range v.items {
		if item.kind != scalar {
			return fmt.Errorf("has %s as element %d; write a single value%s", item.kind, i+1, colonHint(item.kind))
		}
		items[i] = item.text
	}
	*target = items
	return nil
}

func storeMap(target *map[string]string, v value) error {
	if v.kind != mapping {
		return fmt.Errorf("has %s; write a map, like {name: value}", v.kind)
	}
	pairs := make(map[string]string, len(v.fields))
	for _, f := range v.fields {
		if f.kind != scalar {
			return fmt.Errorf("has %s as value of %s; write a single value%s", f.kind, f.name, colonHint(f.kind))
		}
		pairs[f.name] = f.text
	}
	*target = pairs
	return nil
}

// colonHint helps where a text with a colon in it was read as a map.
func colonHint(k kind) string {
	if k == mapping {
		return ", in quotes if it has a colon in it"
	}
	return ""
}

// nearest is the name that was probably meant, "" if none comes close.
func nearest(name string, names []string) string {
	best, bestDistance := "", 3
	for _, candidate := range names {
		if d := distance(strings.ToLower(name), candidate); d < bestDistance && d < len(candidate) {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// distance counts the letters to insert, delete or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
