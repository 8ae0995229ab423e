// Package logline reads a line of the sidecar's decision log, to explain the request of the line again. A line contains no secret, no
// path and no header, so the caller may have to add what a decision depended on.
package logline

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/explain"
	"github.com/keywicket/keywicket/internal/strictjson"
	"github.com/keywicket/keywicket/policies/route"
)

// Line is a line of the decision log.
type Line struct {
	Msg         string       `json:"msg"`
	DecisionID  string       `json:"decision_id"`
	API         string       `json:"api"`
	Method      string       `json:"method"`
	Route       string       `json:"route"` // method and pattern; empty: no route matched
	Allow       bool         `json:"allow"`
	Code        authz.Code   `json:"code"`
	Reason      authz.Reason `json:"reason"`
	Subject     string       `json:"subject"` // id of the token, or of the user of a session; empty: no credential was accepted
	Kind        authz.Kind   `json:"kind"`
	WorkspaceID string       `json:"workspace_id"` // empty: no workspace was granted
}

// Parse reads one line of the decision log. Other lines, such as those of Envoy's access log, are allowed beside it. The errors do not
// quote a line.
func Parse(text []byte) (Line, error) {
	text = bytes.TrimSpace(text)
	if bytes.ContainsRune(text, '\n') {
		var decisions [][]byte
		for line := range bytes.Lines(text) {
			var l Line
			if json.Unmarshal(line, &l) == nil && l.Msg == "decision" {
				decisions = append(decisions, bytes.TrimSpace(line))
			}
		}
		if len(decisions) != 1 {
			return Line{}, fmt.Errorf("%d of the lines are of the decision log: give only one, for example with grep DECISION_ID", len(decisions))
		}
		text = decisions[0]
	}
	if _, err := strictjson.Object(text); err != nil {
		return Line{}, errors.New("the line is not a JSON object: copy a whole line of the decision log, written with log.format: json")
	}
	var l Line
	err := json.Unmarshal(text, &l)
	switch {
	case err == nil && l.Msg != "decision":
		return Line{}, errors.New(`the line is not of the decision log: its field msg must be "decision"`)
	case err != nil:
		return Line{}, errors.New("the line is not of the decision log: a field has another type")
	case l.Code == authz.CodeUnavailable || l.Code == authz.CodeRequestTooLarge:
		return Line{}, fmt.Errorf("the sidecar could not decide about this request (%s), so there is nothing to explain: see the field error or detail of the line", l.Reason)
	}
	return l, nil
}

// Request returns the request of the line. The fields of the parameter `given` override the line. If the line lacks a part of the
// request, given must have it: otherwise, Request returns an error.
func (l Line) Request(given explain.Request) (explain.Request, error) {
	r := given
	if r.Method == "" {
		path, err := l.path()
		if err != nil {
			return r, err
		}
		r.Method, r.Path = l.Method, path
	}
	switch {
	case r.TokenID != "" || r.User != "" || r.Scopes != nil:
	case l.Subject == "" && l.Code == authz.CodeUnauthorized && l.Reason != authz.ReasonMissing:
		return r, fmt.Errorf("the credential was refused (%s), so the line does not contain its id: add --token-id or --user", l.Reason)
	case l.Kind == authz.KindSession:
		r.User = l.Subject
	default:
		r.TokenID = l.Subject
	}
	r.API, r.Workspace = cmp.Or(r.API, l.API), cmp.Or(r.Workspace, l.WorkspaceID)
	if r.Workspace == "" && l.Reason == authz.ReasonWorkspaceMismatch {
		return r, errors.New("the line does not contain the workspace header of the request: add --workspace")
	}
	return r, nil
}

// path returns a path that the route of the line matches.
func (l Line) path() (string, error) {
	_, text, ok := strings.Cut(l.Route, " ")
	if !ok {
		return "", fmt.Errorf("no route matched the request, and the line does not contain its path: add the method and the path, which Envoy's access log has with the decision_id %s", l.DecisionID)
	}
	pattern, err := route.Parse(text)
	if err != nil {
		return "", errors.New("the field route of the line is not a route: add the method and the path")
	}
	segments := strings.Split(pattern.Sample(), "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return strings.Join(segments, "/"), nil
}

// Decision returns the decision of the line, in the form of [explain.Explanation.Decision].
func (l Line) Decision() string {
	return explain.Explanation{Allow: l.Allow, Code: (*string)(&l.Code), Reason: (*string)(&l.Reason)}.Decision()
}
