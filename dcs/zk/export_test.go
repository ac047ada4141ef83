package zk

import "strings"

// Verdict shows what an answer of the client proves.
var Verdict = verdict

// MaxPacket is the largest packet that is sent.
const MaxPacket = maxPacket

// MaxAttempts is how often a transaction gives way.
const MaxAttempts = maxAttempts

// MinDialWait is the shortest wait between rounds of attempts to connect.
const MinDialWait = minDialWait

// PlaceOf shows where a key is, folder and node.
func PlaceOf(root, key string) (folder, node string) {
	at := tree{root: root}.place(key)
	return at.folder, at.node
}

// KeyAt is the key of a node, if it is the node of one.
func KeyAt(root, path string) (string, bool) {
	f := folder{tree: tree{root: root}}
	below, ok := strings.CutPrefix(path, root)
	if !ok {
		return "", false
	}
	names := strings.Split(below[1:], "/")
	for _, name := range names[:len(names)-1] {
		if f, ok = f.folderOf(name); !ok {
			return "", false
		}
	}
	return f.keyOf(names[len(names)-1])
}
