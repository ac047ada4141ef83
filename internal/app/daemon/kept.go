package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pghad/pghad/ha/record"
)

// keptRecord is what this node remembers of the record of the cluster's
// configuration: it goes by that while the store is away, also after a restart.
type keptRecord struct {
	Accepted record.Config `json:"accepted"`
	// Refused is the version that this node could not go by, the zero value if that
	// was none: a restart does not try it again.
	Refused record.ConfigState `json:"refused"`
}

// refuses reports whether a record is the one that was refused.
func (k keptRecord) refuses(stored record.Config) bool {
	return stored.Version == k.Refused.Version && stored.Nonce == k.Refused.Nonce && stored.Version > 0
}

// keeper keeps a keptRecord in a file.
type keeper struct{ path string }

func newKeeper(stateDir string) keeper { return keeper{filepath.Join(stateDir, "cluster-config.json")} }

// load returns the zero value where nothing was kept yet.
func (k keeper) load() (keptRecord, error) {
	data, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return keptRecord{}, nil
	}
	if err != nil {
		return keptRecord{}, err //nolint:wrapcheck // names the file
	}
	var kept keptRecord
	if err := json.Unmarshal(data, &kept); err != nil {
		return keptRecord{}, fmt.Errorf("%s: %w; remove it", k.path, err)
	}
	return kept, nil
}

// save returns when the file is durable; a crash in the middle leaves the old one.
func (k keeper) save(kept keptRecord) error {
	dir := filepath.Dir(k.path)
	file, err := os.CreateTemp(dir, filepath.Base(k.path)+".*")
	if err != nil {
		return err //nolint:wrapcheck // names the file
	}
	_, err = file.Write(append(record.Encode(kept), '\n'))
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), k.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return syncDirectory(dir)
}

func syncDirectory(dir string) error {
	file, err := os.Open(dir) //nolint:gosec // the operator names the directory
	if err != nil {
		return err //nolint:wrapcheck // names the directory
	}
	return errors.Join(file.Sync(), file.Close())
}
