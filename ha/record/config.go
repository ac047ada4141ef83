package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Config is the value of `config`: what is set for all nodes of a cluster at once.
// What the names mean, and in which form the values are, is for the program that
// reads them; Node and Operator only carry them.
type Config struct {
	Format  int       `json:"format"`
	Version uint64    `json:"version"` // grows with each change
	Nonce   string    `json:"nonce"`   // equal versions with other nonces are not equal
	Changed time.Time `json:"changed"` // when; for people
	By      string    `json:"by,omitempty"`
	// Values are the keys that are set, by name. One that is not here is left to
	// each node.
	Values map[string]json.RawMessage `json:"values"`
}

// DecodeConfig reads the value of `config`. Unlike other records it is refused
// where it has a field that this version does not know: what an operator has set is
// never ignored in silence. An empty value is the zero Config.
func DecodeConfig(key string, data []byte) (Config, error) {
	config, err := Decode[Config](key, data)
	if err != nil || len(data) == 0 {
		return Config{}, err
	}
	config = Config{}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		return Config{}, fmt.Errorf("record %s: %w", key, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("record %s: something follows its value", key)
	}
	if config.Format < 1 || config.Version < 1 {
		return Config{}, fmt.Errorf("record %s: format %d, version %d: both begin with 1", key, config.Format, config.Version)
	}
	return config, nil
}

// ConfigState says how far a node has come with `config`.
type ConfigState struct {
	Version uint64 `json:"version"` // that the node goes by, 0 for none
	Nonce   string `json:"nonce,omitempty"`
	// Pending are the keys, of the record or of the node's own configuration, of
	// which a change waits for a restart of the agent.
	Pending []string `json:"pending,omitempty"`
	Problem string   `json:"problem,omitempty"` // why it does not go by a newer one
}
