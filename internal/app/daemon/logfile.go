package daemon

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/pghad/pghad/internal/app/config"
)

// serverLog is the file in the state directory to which the controller lets
// PostgreSQL write.
const serverLog = "postgresql.log"

// linkLog leads PostgreSQL's messages to the configured file: the controller's
// log file becomes a symbolic link to it. Without a configured file a link of
// an earlier configuration is removed. A log that has been written there stays,
// under another name.
func linkLog(cfg *config.Config) error {
	link := filepath.Join(cfg.Postgres.StateDir, serverLog)
	info, err := os.Lstat(link)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return cfg.Problem("postgres.state_dir", err.Error())
	}
	isLink := err == nil && info.Mode()&os.ModeSymlink != 0
	wanted := cfg.Postgres.Log
	if wanted == link {
		wanted = ""
	}
	if isLink {
		if target, err := os.Readlink(link); err == nil && target == wanted {
			return nil
		}
		if err := os.Remove(link); err != nil {
			return cfg.Problem("postgres.state_dir", err.Error())
		}
	}
	if wanted == "" {
		return nil
	}
	if err == nil && !isLink {
		if err := os.Rename(link, link+".old"); err != nil {
			return cfg.Problem("postgres.state_dir", err.Error())
		}
	}
	if err := os.Symlink(wanted, link); err != nil {
		return cfg.Problem("postgres.log", err.Error())
	}
	return nil
}
