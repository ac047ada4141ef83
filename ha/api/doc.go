// Package api is the direct line between nodes, over HTTP: a Handler that
// answers for a node, a Server to run it on, and a Client that asks other nodes
// and is an ha.Peers.
//
// The line works without the configuration store. That is its purpose: while
// the store is away, a primary stays writable on the promises of its members.
//
// # Endpoints
//
// There is one so far.
//
//	POST /peer/promise    {"format":1,"id":…,"cluster":…,"term":…,"nonce":…,"primary":…,"member":…,"for":…}
//	                      {"format":1,"id":…,"cluster":…,"term":…,"member":…,"given":…,"why":…}
//
// The fields are those of ha.PromiseRequest and ha.Promise. "format" says what
// the rest means; a format that a node does not know is refused, not guessed.
// "id" is drawn anew for each question and repeated by the answer, so that an
// answer that was kept on the way is not taken for a new one. An unknown field,
// a missing one, or anything after the object makes a body invalid.
//
// A promise that is refused is an answer, with status 200. Every other status
// comes with {"error": "a sentence"} and means that there is no answer: 400 for
// a body that is invalid, 401 and 403 for whoever may not ask, 404 for a path
// that does not exist, 405 for another method, 413 and 415 for another kind of
// body, 429 and 503 when too much is asked, 500 and 503 when the node cannot
// answer.
//
// # What an answer is
//
// The Client takes for an answer only what came with status 200, as valid JSON,
// within the time, and names the question, the cluster, the term and the member
// that it was about. Silence, another status, a redirect and an answer for
// another life of the member are errors. It uses no proxy, follows no redirect,
// and reads no more than an answer can be long.
//
// # Who may ask
//
// Credentials say what a node shows and what it demands: a certificate, a
// certificate signed by its authorities, a user and password, or both. All of
// them are read anew when the files change. A Server that other machines can
// reach and that demands nothing does not start (ErrUnprotected), and a Handler
// that finds itself in that place answers nobody.
//
// A flood is turned away before it costs much: there are limits on connections
// and on requests, for each address and for all together, on sizes and times,
// and on questions that are answered at once.
//
// # The caller's duties
//
//   - All nodes of a cluster have the same kind of Credentials. A certificate
//     is valid for the host that others reach the node at, for servers and, where
//     client certificates are demanded, for clients too.
//   - Credentials and Server are closed by whoever opened them; the Server after
//     the node has ended.
//   - What Server is not used for (another http.Server around Handler) has the
//     caller's own time limits.
package api
