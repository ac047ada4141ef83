package pgtest

// Rule names a behaviour of PostgreSQL that the model has and that can be
// switched off by Config.Without: what rests on the rule must then fail.
type Rule string

const (
	// RuleReceiverOutlivesReload (X1): clearing primary_conninfo does not end a
	// receiver; only the startup process does, when it next asks for WAL.
	RuleReceiverOutlivesReload Rule = "X1"
	// RuleOwnCopy (P8, X8): a walsender releases commits by its own copy of the
	// setting.
	RuleOwnCopy Rule = "P8"
	// RuleNamesCountTwice (P12): two walsenders of one name are two
	// acknowledgements.
	RuleNamesCountTwice Rule = "P12"
	// RuleCascadedNeverCounts (C4): the walsender of a standby has priority 0.
	RuleCascadedNeverCounts Rule = "C4"
	// RuleLateCheckpoint (C10): the control file names the new timeline only
	// after the checkpoint that follows a promotion.
	RuleLateCheckpoint Rule = "C10"
	// RuleRetention (C20): WAL that nobody holds is removed by checkpoints.
	RuleRetention Rule = "C20"
)
