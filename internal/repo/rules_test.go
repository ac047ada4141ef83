package repo

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// rule restricts what some packages import. Patterns are import paths as go
// list takes them: "." is the module, a trailing "/..." includes everything
// below, and "std" is the standard library.
type rule struct {
	says   string   // the rule in one sentence, for whoever breaks it
	from   []string // the packages that it binds
	except []string // those of them that it does not

	never []string // not imported, not even indirectly
	only  []string // all that is imported, even indirectly (nil: no such limit)

	neverDirectly []string // not imported in a file of the package
	onlyDirectly  []string // all that is imported in a file of the package (nil: no such limit)
}

// The clients and tools that a user of package ha must not have to compile.
var (
	backends  = []string{"go.etcd.io/...", "google.golang.org/grpc/...", "github.com/go-zookeeper/...", "github.com/jackc/..."}
	tools     = []string{"github.com/spf13/...", "github.com/goccy/go-yaml/...", "golang.org/x/term/..."}
	metrics   = []string{"github.com/prometheus/..."}
	testSuite = []string{"./dcs/dcstest/...", "./pg/pgtest/...", "./ha/hatest/..."}
)

// pureLeaves decide; they neither wait nor act.
var pureLeaves = []string{"./ha/quorum", "./ha/election", "./ha/switchover", "./ha/rejoin", "./ha/role"}

// rules are the layers of ARCHITECTURE.md. A package that does not exist yet is
// bound as soon as it does.
var rules = []rule{
	{
		says:  "dcs knows neither pg nor ha",
		from:  []string{"./dcs/..."},
		never: []string{"./pg/...", "./ha/..."},
	},
	{
		says:  "pg knows neither dcs nor ha",
		from:  []string{"./pg/..."},
		never: []string{"./dcs/...", "./ha/..."},
	},
	{
		says: "the vocabulary dcs links nothing but the standard library and the injected clock",
		from: []string{"./dcs"},
		only: []string{"std", "./dcs/internal/...", "./internal/timectx", "github.com/benbjohnson/clock"},
	},
	{
		says: "the vocabulary pg links nothing but the standard library",
		from: []string{"./pg"},
		only: []string{"std"},
	},
	{
		says:          "ha takes its store and its server as interfaces and imports no implementation of them",
		from:          []string{"./ha/..."},
		except:        []string{"./ha/hatest/..."},
		neverDirectly: []string{"./dcs/memory/...", "./dcs/etcd/...", "./dcs/zk/...", "./dcs/dcstest/...", "./pg/pgctl/...", "./pg/pgtest/..."},
	},
	{
		says:   "whoever uses ha links this module's vocabularies, the standard library and the injected clock, nothing else",
		from:   []string{"./ha/..."},
		except: []string{"./ha/hatest/...", "./ha/metrics/..."},
		only:   []string{"std", "./dcs", "./dcs/internal/...", "./pg", "./ha/...", "./internal/...", "github.com/benbjohnson/clock"},
	},
	{
		says:  "ha/hatest and ha/metrics link no database client and no command-line tools",
		from:  []string{"./ha/hatest/...", "./ha/metrics/..."},
		never: slices.Concat(backends, tools, []string{"./dcs/etcd/...", "./dcs/zk/...", "./pg/pgctl/..."}),
	},
	{
		says:   "a metrics library is linked by ha/metrics only, not by ha",
		from:   []string{"./dcs", "./pg/...", "./ha/..."},
		except: []string{"./ha/metrics/..."},
		never:  metrics,
	},
	{
		says:         "a pure leaf imports pg, the recorded quorum and the standard library only",
		from:         pureLeaves,
		onlyDirectly: []string{"std", "./pg", "./ha/quorum"},
	},
	{
		says:          "a pure leaf does not lock, wait, draw lots, or look at the world",
		from:          pureLeaves,
		neverDirectly: []string{"context", "sync/...", "math/rand/...", "crypto/rand", "os/...", "net/...", "syscall", "runtime/..."},
	},
	{
		says:   "etcd's client stays in dcs/etcd",
		from:   []string{"./dcs/...", "./pg/...", "./ha/..."},
		except: []string{"./dcs/etcd/..."},
		never:  []string{"go.etcd.io/...", "google.golang.org/grpc/..."},
	},
	{
		says:   "ZooKeeper's client stays in dcs/zk",
		from:   []string{"./dcs/...", "./pg/...", "./ha/..."},
		except: []string{"./dcs/zk/..."},
		never:  []string{"github.com/go-zookeeper/..."},
	},
	{
		says:   "pgx stays in pg/pgctl",
		from:   []string{"./dcs/...", "./pg/...", "./ha/..."},
		except: []string{"./pg/pgctl/..."},
		never:  []string{"github.com/jackc/..."},
	},
	{
		says:          "only test suites import a testing library",
		from:          []string{"./dcs/...", "./pg/...", "./ha/..."},
		except:        testSuite,
		neverDirectly: []string{"testing/...", "github.com/stretchr/testify/..."},
	},
	{
		says:  "the library knows no program and no test server",
		from:  []string{"./dcs/...", "./pg/...", "./ha/..."},
		never: []string{"./cmd/...", "./examples/...", "./internal/app/...", "./internal/testbed/...", "./internal/workload/..."},
	},
	{
		says:          "an example is what a user could write: it imports nothing internal",
		from:          []string{"./examples/..."},
		neverDirectly: []string{"./internal/..."},
	},
	{
		says:          "internal/app is imported by cmd/pghad only",
		from:          []string{"./..."},
		except:        []string{"./cmd/pghad/...", "./internal/app/..."},
		neverDirectly: []string{"./internal/app/..."},
	},
	{
		says: "cmd/pghad-guard links the standard library only, and at most internal packages that do the same",
		from: []string{"./cmd/pghad-guard/..."},
		only: []string{"std", "./cmd/pghad-guard/...", "./internal/..."},
	},
}

// violations returns one sentence for each import by which a package breaks the
// rule.
func (r rule) violations(packages []listed) []string {
	var found []string
	for _, p := range packages {
		if !matches(r.from, p.ImportPath) || matches(r.except, p.ImportPath) {
			continue
		}
		for _, imported := range bad(p.Imports, r.neverDirectly, r.onlyDirectly) {
			found = append(found, fmt.Sprintf("%s imports %s: %s", p.ImportPath, imported, r.says))
		}
		for _, linked := range bad(p.Deps, r.never, r.only) {
			found = append(found, fmt.Sprintf("%s links %s (go mod why says through what): %s", p.ImportPath, linked, r.says))
		}
	}
	return found
}

// bad returns the paths that match a forbidden pattern, or none of the allowed
// ones if there are any.
func bad(paths, never, only []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		return !matches(never, path) && (only == nil || matches(only, path))
	})
}

// matches reports whether path matches one of the patterns.
func matches(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if pattern == "std" {
			first, _, _ := strings.Cut(path, "/")
			return !strings.Contains(first, ".") // only a domain has a dot
		}
		if rest, ours := strings.CutPrefix(pattern, "."); ours {
			pattern = module + rest
		}
		above, tree := strings.CutSuffix(pattern, "/...")
		return path == above || tree && strings.HasPrefix(path, above+"/")
	})
}

// asksTheClock are the names of package time that a pure leaf must not use: its
// times come with what was observed. The linter binds the rest of the library.
var asksTheClock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}

// clockUses returns where a file asks the clock. src is as for parser.ParseFile.
func clockUses(name string, src any) ([]string, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	called := importedAs(file, "time")
	var found []string
	ast.Inspect(file, func(node ast.Node) bool {
		selector, ok := node.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := selector.X.(*ast.Ident); ok && x.Name == called && slices.Contains(asksTheClock, selector.Sel.Name) {
			found = append(found, fmt.Sprintf("%s: time.%s: a pure leaf is told the time", files.Position(node.Pos()), selector.Sel.Name))
		}
		return true
	})
	return found, nil
}

// importedAs returns the name under which a file knows a package of the
// standard library, or "".
func importedAs(file *ast.File, path string) string {
	for _, spec := range file.Imports {
		if spec.Path.Value != `"`+path+`"` {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path[strings.LastIndexByte(path, '/')+1:]
	}
	return ""
}
