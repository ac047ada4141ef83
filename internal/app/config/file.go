package config

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// parse reads one YAML document into a mapping. Anchors, aliases, merges and
// tags are refused: they have no use here, and a key that means something else
// than it seems to has no place in this file.
func parse(name string, data []byte) (value, *Problem) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return value{}, syntaxProblem(name, err)
	}
	whole := origin{file: name}
	var body ast.Node
	for i, doc := range file.Docs {
		if i > 0 {
			return value{}, &Problem{Where: position(name, doc.Start).String(), Sentence: "a second YAML document begins here; write one only"}
		}
		body = doc.Body
	}
	if body == nil || body.Type() == ast.NullType || body.Type() == ast.CommentType {
		return value{at: whole, kind: mapping}, nil
	}
	v, problem := convert(name, body)
	if problem == nil && v.kind != mapping {
		problem = &Problem{Where: v.at.String(), Sentence: "the file holds " + string(v.kind) + "; write keys, like cluster: NAME"}
	}
	return v, problem
}

func syntaxProblem(name string, err error) *Problem {
	where, message := origin{file: name}, err.Error()
	if syntax, ok := errors.AsType[yaml.Error](err); ok {
		where, message = position(name, syntax.GetToken()), syntax.GetMessage()
	}
	return &Problem{Where: where.String(), Sentence: "not valid YAML: " + message}
}

func position(name string, tk *token.Token) origin {
	if tk == nil || tk.Position == nil {
		return origin{file: name}
	}
	return origin{file: name, line: tk.Position.Line, column: tk.Position.Column}
}

func convert(name string, node ast.Node) (value, *Problem) {
	v := value{at: position(name, node.GetToken())}
	switch n := node.(type) {
	case *ast.MappingNode:
		return convertMapping(name, v, n.Values)
	case *ast.MappingValueNode:
		return convertMapping(name, v, []*ast.MappingValueNode{n})
	case *ast.SequenceNode:
		v.kind = list
		for _, item := range n.Values {
			converted, problem := convert(name, item)
			if problem != nil {
				return value{}, problem
			}
			v.items = append(v.items, converted)
		}
	case *ast.NullNode:
		v.kind = null
	case *ast.StringNode:
		v.kind, v.text = scalar, n.Value
	case *ast.LiteralNode:
		v.kind, v.text = scalar, n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		v.kind, v.text = scalar, node.GetToken().Value // as it was written
	default:
		return value{}, &Problem{Where: v.at.String(), Sentence: fmt.Sprintf("YAML's %s is not supported here; write the value out", node.Type())}
	}
	return v, nil
}

func convertMapping(name string, v value, pairs []*ast.MappingValueNode) (value, *Problem) {
	v.kind = mapping
	if len(pairs) > 0 {
		v.at = position(name, pairs[0].Key.GetToken())
	}
	for _, pair := range pairs {
		at := position(name, pair.Key.GetToken())
		key, ok := keyText(pair.Key)
		if !ok {
			return value{}, &Problem{Where: at.String(), Sentence: "not a plain key; write a name and a colon"}
		}
		converted, problem := convert(name, pair.Value)
		if problem != nil {
			return value{}, problem
		}
		v.fields = append(v.fields, field{name: key, at: at, value: converted})
	}
	return v, nil
}

func keyText(key ast.MapKeyNode) (string, bool) {
	switch k := key.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return key.GetToken().Value, true
	}
	return "", false
}
