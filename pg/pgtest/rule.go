package pgtest

// Rule names a behaviour of PostgreSQL that the model has and that can be
// switched off by Config.Without: what rests on the rule must then fail. The
// recipes of the conformance suite say which of them they pin.
type Rule string

// The rules, by the names of the list in the package's documentation.
const (
	RuleCancelSaysSuccess       Rule = "P1"         // a cancelled wait for standbys says success
	RuleTerminatedIsCommitted   Rule = "P2"         // a terminated one says nothing, and the row is visible
	RuleFlushedIsCommitted      Rule = "P3"         // after a restart every flushed commit is visible
	RuleWaitingIsHidden         Rule = "P4"         // who waits is hidden on the primary
	RuleLevelOfSession          Rule = "P5"         // synchronous_commit belongs to the session
	RuleWrittenIsNotDurable     Rule = "P6"         // remote_write does not survive the standby's machine
	RuleEmptySettingReleases    Rule = "P7"         // emptying the setting releases everybody as a success
	RuleOwnCopy                 Rule = "P8"         // a walsender rates itself and counts by its own copy of the setting
	RuleCatchupDoesNotCount     Rule = "P11"        // a standby that catches up releases nobody
	RuleNamesCountTwice         Rule = "P12"        // two walsenders of one name are two acknowledgements
	RuleReplayBeforePromotion   Rule = "P13"        // a promotion first replays everything that lies in pg_wal
	RulePromotionEndsPause      Rule = "P14"        // a promotion ends a pause of replay
	RuleStopShips               Rule = "P20"        // a fast stop ships everything, and waits for frozen receivers
	RuleTermEndsSenders         Rule = "P20/term"   // SIGTERM ends a walsender that waits for its standby
	RuleSlotsStayBehind         Rule = "P26"        // slots are not in the WAL, nor in a copy
	RuleReceiverOutlivesReload  Rule = "X1"         // only the startup process ends a receiver, when it next asks for WAL
	RuleConnectingIsHidden      Rule = "X2"         // a receiver that connects is not shown, and can come through
	RuleCheckpointerAdopts      Rule = "X4"         // commits wait once the checkpointer has read the setting (X8)
	RuleSettingFromTheStart     Rule = "X4/start"   // a setting is in force from the server's start on
	RuleNumberAboveHistories    Rule = "X5"         // a promotion takes the number above the highest history file
	RuleReceivedIsForgotten     Rule = "X6"         // what was received is forgotten with the server
	RuleReplayedCountsAsFlushed Rule = "X7"         // a receiver reports as flushed what was replayed, whosever it was
	RuleCascadeGoesOn           Rule = "X9"         // a cascaded standby goes on across its upstream's promotion
	RuleLocalReturns            Rule = "X12"        // a local commit returns while others wait
	RulePastHistoryRefuses      Rule = "X13"        // a history file from the past keeps the server from starting
	RuleHistoryIsRemembered     Rule = "X14"        // one from the future keeps it from following, until a restart
	RuleCascadedNeverCounts     Rule = "C4/cascade" // the walsender of a standby has priority 0
	RuleNamesHaveNoCase         Rule = "C4/case"    // names are compared without regard to case
	RuleFirstCountsTheFirst     Rule = "C4/first"   // FIRST counts the first that are connected, no others
	RuleApplyIsReplay           Rule = "C6"         // remote_apply waits for replay, on for the flush
	RulePartialIsReceived       Rule = "C9"         // half a record is received, never replayed
	RuleReceiveFromSegment      Rule = "C9/segment" // a receiver is asked for the segment from its beginning
	RuleLateCheckpoint          Rule = "C10"        // the control file lags behind a promotion
	RulePromotionInSteps        Rule = "C11"        // a promotion can be cut off between any two of its steps
	RuleTwinsLookEqual          Rule = "C12"        // pg_rewind takes two timelines of one number for the same
	RuleForkIsNotChecked        Rule = "C13"        // a standby past the fork streams up to it and reports beyond it
	RuleRewindWantsClean        Rule = "C14"        // pg_rewind wants a target that was shut down
	RuleHalfARewind             Rule = "C14/half"   // a rewind that is cut off leaves data that must not be started
	RuleRecoveryOnTheSpot       Rule = "C15"        // recovery without standby.signal ends on the timeline at hand
	RuleOrphans                 Rule = "C17"        // children outlive a killed postmaster
	RuleFrozenPostmaster        Rule = "C18"        // a frozen postmaster admits nobody and disturbs no session
	RuleRecoveryTakesTime       Rule = "C19"        // nobody is admitted before recovery has ended
	RuleRetention               Rule = "C20"        // WAL that nobody holds is removed by checkpoints
	RuleSlotLimit               Rule = "C20/limit"  // max_slot_wal_keep_size takes the WAL from a slot
	RuleFullDisk                Rule = "C21"        // a primary that can make no WAL file ends
	RuleFlushBeforeAnswer       Rule = "C21/flush"  // a commit is answered when it is durable at home
	RuleCopyNeedsItsSource      Rule = "C22"        // a base backup ends with its source's server, or its promotion
	RuleCopyBeside              Rule = "C22/beside" // a clone is made beside the data
	RuleConflictHoldsReplay     Rule = "C23"        // a query can hold up replay, and a promotion with it
	RuleCascadePassesOn         Rule = "C24"        // a standby passes on what it has received, replayed or not
)
