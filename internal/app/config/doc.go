// Package config reads the configuration of pghad.
//
// A value comes from the cluster's record (Record), where the key is one that can be
// set for the whole cluster, else from the environment, else from the file, else it is
// the default. One table (Keys) says for every key what it is called, what type it
// has, what its default is and what it means; the file, the environment, the
// defaults and the reference shown to people are all derived from it. Nothing
// is guessed: an unknown key, a duration without a unit or a list where a text
// belongs is a Problem that names file, line, column and key, says what to
// write instead, and never changes anything on disk.
//
// The environment variable of a key is PGHAD_ and the key in capitals, with _
// for each dot: dcs.tls.ca_file is PGHAD_DCS_TLS_CA_FILE. An empty variable is
// no variable. Lists and maps are written there as YAML, ["a", "b"] and
// {key: value}; a list also as elements separated by commas, postgres.hba by
// line ends. An unknown variable that starts with PGHAD_ is a Problem like an
// unknown key, except PGHAD_SERVICE_* and PGHAD_PORT*, which Kubernetes sets
// for a service of that name.
//
// Secrets come from the environment or from a file whose name ends in _file
// here, and print as [redacted] whatever prints them.
package config
