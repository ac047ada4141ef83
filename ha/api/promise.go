package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"
	"time"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
)

const (
	promisePath = "/peer/promise"
	format      = 1 // of questions and answers; see record.Format for the rule

	maxBody = 16 << 10  // of a question or an answer, in bytes
	maxID   = 64        // of a question's id, in bytes
	maxFor  = time.Hour // no lease is as long
)

// question is what travels to the node that is asked.
type question struct {
	Format int    `json:"format"`
	ID     string `json:"id"`
	ha.PromiseRequest
}

// answer is what comes back.
type answer struct {
	Format  int           `json:"format"`
	ID      string        `json:"id"`
	Cluster string        `json:"cluster"`
	Term    uint64        `json:"term"`
	Member  quorum.Member `json:"member"`
	Given   *bool         `json:"given"` // nil: not said, which is no answer
	Why     string        `json:"why,omitempty"`
}

// failure is what comes back where there is no answer.
type failure struct {
	Error string `json:"error"`
}

// readQuestion reads the body of a question. Its error is a sentence for
// whoever has asked.
func readQuestion(body []byte) (question, error) {
	var q question
	if err := decode(body, &q); err != nil {
		return question{}, err
	}
	switch {
	case q.ID == "" || len(q.ID) > maxID:
		return question{}, fmt.Errorf("id: want 1 to %d characters", maxID)
	case q.Cluster == "":
		return question{}, errors.New("cluster: is missing")
	case q.Term == 0:
		return question{}, errors.New("term: is missing")
	case q.Primary == quorum.Member{}:
		return question{}, errors.New("primary: is missing")
	case q.Member == quorum.Member{}:
		return question{}, errors.New("member: is missing")
	case q.For <= 0 || q.For > maxFor:
		return question{}, fmt.Errorf("for: %d is not a time in nanoseconds above zero and up to %s", q.For, maxFor)
	}
	return q, nil
}

// answerTo is the answer that carries a promise.
func answerTo(q question, promise ha.Promise) answer {
	return answer{
		Format: format, ID: q.ID, Cluster: q.Cluster, Term: q.Term,
		Member: promise.Member, Given: &promise.Given, Why: promise.Why,
	}
}

// readAnswer reads the body of an answer and holds it against the question.
func readAnswer(body []byte, q question) (ha.Promise, error) {
	var a answer
	if err := decode(body, &a); err != nil {
		return ha.Promise{}, fmt.Errorf("not an answer: %w", err)
	}
	switch {
	case a.Given == nil:
		return ha.Promise{}, errors.New("not an answer: given: is missing")
	case a.ID != q.ID:
		return ha.Promise{}, errors.New("this is the answer to another question")
	case a.Cluster != q.Cluster:
		return ha.Promise{}, fmt.Errorf("this is the answer of cluster %q", a.Cluster)
	case a.Term != q.Term:
		return ha.Promise{}, fmt.Errorf("this is an answer about term %d, not %d", a.Term, q.Term)
	case a.Member == quorum.Member{} && !*a.Given: // it has not looked at its data yet, or has none
		return ha.Promise{}, fmt.Errorf("it does not say which member it is: %q", a.Why)
	case a.Member != q.Member:
		return ha.Promise{}, fmt.Errorf("this is the answer of member %q, not %q: %q", a.Member, q.Member, a.Why)
	}
	return ha.Promise{Given: *a.Given, Member: a.Member, Why: a.Why}, nil
}

// decode reads one JSON object that has a format. The format is looked at
// first: what a later one contains must not be judged by the rules of this one.
func decode(body []byte, into any) error {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return fmt.Errorf("invalid JSON: %w", err)
	}
	if head.Format != format {
		return fmt.Errorf("format: %d is not known here, only %d", head.Format, format)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("invalid JSON: %w", err)
	}
	return nil
}

// readBody reads a body to its end, but no more than maxBody.
func readBody(body io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxBody:
		return nil, errTooLong
	}
	return data, nil
}

var errTooLong = fmt.Errorf("the body is longer than %d bytes", maxBody)

// isJSON reports whether a Content-Type says JSON.
func isJSON(contentType string) bool {
	kind, parameters, err := mime.ParseMediaType(contentType)
	charset := parameters["charset"]
	return err == nil && kind == "application/json" && (charset == "" || strings.EqualFold(charset, "utf-8"))
}
