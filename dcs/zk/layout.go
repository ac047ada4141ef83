package zk

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/pghad/pghad/dcs"
)

const (
	// maxFolders is how many segments of a key are folders: a namespace and a
	// cluster, in the layout of package ha. More would leave folders behind for
	// keys that are used once, and cost a request each when keys are listed.
	maxFolders = 2
	// sessionsFolder holds one ephemeral node for each session. No segment of a
	// key is written like this.
	sessionsFolder = "/%sessions"
)

// tree is where keys are in ZooKeeper's tree.
type tree struct {
	root string // path of the node below which all is; "" is ZooKeeper's root
}

// place is where a key is.
type place struct {
	folder string // path of the folder
	node   string // path of the node in it
}

// path completes a path below the root.
func (t tree) path(below string) string {
	if t.root+below == "" {
		return "/"
	}
	return t.root + below
}

// session is the path of a session's own node.
func (t tree) session(id int64) string { return t.path(sessionsFolder + "/" + string(sessionID(id))) }

// place finds a valid key.
func (t tree) place(key string) place {
	segments := strings.Split(key[1:], "/")
	n := min(maxFolders, len(segments)-1)
	for i, segment := range segments {
		if i < n {
			segments[i] = escapeFolder(segment)
		} else {
			segments[i] = escape(segment)
		}
	}
	folder := ""
	if n > 0 {
		folder = "/" + strings.Join(segments[:n], "/")
	}
	return place{folder: t.path(folder), node: t.path(folder + "/:" + strings.Join(segments[n:], ":"))}
}

// folder is a folder that is walked for the keys in it.
type folder struct {
	tree  tree
	below string // path below the root
	key   string // the keys in it begin with this and a slash
	depth int
}

// above is the deepest folder that has all keys with a prefix.
func (t tree) above(prefix string) folder {
	segments := strings.Split(prefix[1:], "/")
	f := folder{tree: t}
	for _, segment := range segments[:min(maxFolders, len(segments)-1)] {
		f = f.sub(segment)
	}
	return f
}

func (f folder) sub(segment string) folder {
	return folder{
		tree:  f.tree,
		below: f.below + "/" + escapeFolder(segment),
		key:   f.key + "/" + segment,
		depth: f.depth + 1,
	}
}

func (f folder) path() string { return f.tree.path(f.below) }

// child is the path of a node in the folder.
func (f folder) child(name string) string { return f.tree.path(f.below + "/" + name) }

// keyOf is the key whose node has this name, if it is one.
func (f folder) keyOf(name string) (string, bool) {
	if !strings.HasPrefix(name, ":") {
		return "", false
	}
	segments := strings.Split(name[1:], ":")
	for i, escaped := range segments {
		segment, err := url.PathUnescape(escaped)
		if err != nil {
			return "", false
		}
		segments[i] = segment
	}
	key := f.key + "/" + strings.Join(segments, "/")
	// Somebody else's node can have any name.
	if dcs.ValidateKey(key) != nil || f.tree.place(key).node != f.child(name) {
		return "", false
	}
	return key, true
}

// folderOf is the folder of this name, if there can be one.
func (f folder) folderOf(name string) (folder, bool) {
	segment, err := url.PathUnescape(name)
	if err != nil || f.depth == maxFolders || dcs.ValidateKey("/"+segment) != nil || strings.Contains(segment, "/") {
		return folder{}, false
	}
	sub := f.sub(segment)
	return sub, sub.path() == f.child(name)
}

// mayHave reports whether a key with the prefix can be in the folder.
func (f folder) mayHave(prefix string) bool {
	return strings.HasPrefix(f.key+"/", prefix) || strings.HasPrefix(prefix, f.key+"/")
}

// escape writes a segment so that ZooKeeper can have it in a name, and the
// colon joins segments.
func escape(segment string) string {
	if !strings.ContainsFunc(segment, special) {
		return segment
	}
	var b strings.Builder
	for _, r := range segment {
		if !special(r) {
			b.WriteRune(r)
			continue
		}
		for _, octet := range []byte(string(r)) {
			b.WriteString("%" + strings.ToUpper(strconv.FormatUint(0x100|uint64(octet), 16)[1:]))
		}
	}
	return b.String()
}

// escapeFolder also keeps clear of the node that is ZooKeeper's own.
func escapeFolder(segment string) string {
	if segment == "zookeeper" {
		return "%7Aookeeper"
	}
	return escape(segment)
}

func special(r rune) bool { return r == ':' || r == '%' || unfit(r) }

// unfit reports whether ZooKeeper refuses r in a path. It looks at units of
// UTF-16, and takes no surrogates.
func unfit(r rune) bool {
	return r <= 0x1f || r >= 0x7f && r <= 0x9f || r >= 0xd800 && r <= 0xf8ff || r >= 0xfff0
}
