// Package zk implements dcs over ZooKeeper 3.5 and newer.
//
// The protocol is spoken by go-zookeeper/zk. What that client does beyond it is
// not used, or taken from it: it reconnects unseen, opens another session under
// the same connection, drops events, never says what session timeout was
// granted, and its lock can be held by two.
//
// # Mapping
//
// The first segments of a key, two at most, are folders, and the rest is the
// name of one node in the folder, with colons for slashes: /service/main/quorum
// and /service/main/quorum/members/a are the nodes :quorum and :quorum:members:a
// in the folder /service/main. So a key can have a value and keys below it, and
// a key under a session, which is an ephemeral node, can too. What ZooKeeper
// cannot have in a name is written as in URLs.
//
// A revision is the id of the ZooKeeper transaction that wrote the node (its
// mzxid), a creation that of the one that created it (its czxid): they grow
// over the whole life of an ensemble. A transaction of ZooKeeper, however, can
// check neither. It checks the version of a node, which begins anew with each
// incarnation of the node. Therefore every folder is a counter: whatever
// creates a key raises the version of its folder in the same transaction. If a
// folder still has the version that was read before its nodes were, then no key
// in it has been created since, so that what was absent is still absent, and a
// node that still exists is the incarnation that was read. A Commit reads,
// decides, and has the ensemble carry it out under the condition that what it
// has read still holds; when that fails it reads again. Folders stay for ever:
// whoever removes one, removes it while no client runs. Whoever creates a node
// by hand sets the data of its folder too, to anything.
//
// A key that is moved to another session becomes another incarnation, with a
// greater creation: ephemeral nodes cannot change hands. A transaction can write
// keys under one session at most.
//
// # Reads
//
// A read is preceded by a transaction that changes nothing. ZooKeeper's own
// means, sync, is not enough: a deposed leader that has not noticed yet answers
// it. An ensemble pays for each read with a write to its log.
//
// # Sessions
//
// A session has a connection of its own, because ephemeral nodes belong to the
// session of the connection that creates them. A write under a session that does
// not come from this Store is refused.
//
// A renewal reopens the session on a new connection and then has the ensemble
// carry out a transaction in it. Both are needed. A follower that gets a request
// reports only now and then to the leader, which alone counts the time, that the
// session is alive; a follower that is cut off after it has answered has not
// reported it, and the session ends earlier than its holder believes. To reopen a
// session asks the leader. And that this was no deposed leader, which others
// have outvoted, the transaction proves.
//
// The client keeps a session alive for as long as the process lives, whether it
// is renewed or not. So a session that is not renewed in time is ended here.
//
// # Outcomes
//
// A call waits for a connection as long as its context lives. What was not
// handed to the client is surely not done. After that only the ensemble's own
// words prove that nothing was done: see verdicts. Everything else is
// dcs.ErrAmbiguous. Nothing is read back to learn more: what is found may be
// another's, and what is not found may still land.
package zk
