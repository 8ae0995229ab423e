package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/target"
	"github.com/keywicket/keywicket/policies"
)

// fixRoute returns the step for a request without a route: a spelling that the table lists, or a row to add. For a spelling, it also
// returns the simulation of the request with this spelling, because the request may need other steps too. If the result `otherAPI` is
// true, the route belongs to another API, and no step for this API would help.
func (m *simulation) fixRoute(ctx context.Context) (s step, corrected *simulation, otherAPI bool, err error) {
	path, _, _ := strings.Cut(m.path, "?")
	if m.input.Segments() == nil {
		s, err := m.fixPath(ctx, path)
		return s, nil, false, err
	}
	for _, api := range slices.Sorted(maps.Keys(m.cfg.APIs)) {
		explanation, err := m.findRoute(ctx, api, m.method, path)
		if err != nil {
			return step{}, nil, false, err
		}
		if explanation.Route != "" {
			return step{corrects, fmt.Sprintf("%s has this route (%s): use --api %s", api, explanation.Row, api)}, nil, true, nil
		}
	}
	spelling, found, err := m.fixSpelling(ctx, path)
	if err != nil {
		return step{}, nil, false, err
	}
	if found.Route != "" {
		corrected := *m
		corrected.path = spelling + m.path[len(path):]
		text := fmt.Sprintf("the table has %s (%s): use exactly this letter case and these slashes", found.Route, found.Row)
		return step{corrects, text}, &corrected, false, corrected.check(ctx)
	}
	row, unsupported := proposedRow(m.explainer.Tables()[m.api].Routes, m.input.Segments())
	if unsupported != "" {
		return step{widens, fmt.Sprintf("the path has a %s, which a row of a table cannot contain: choose another path, or add a row with a {parameter} there", unsupported)}, nil, false, nil
	}
	methods, err := m.otherMethods(ctx, path)
	if methods != "" {
		methods = "the path is listed for " + methods + "; to allow " + m.method + ", "
	}
	return step{widens, fmt.Sprintf("%sadd the row  - {method: %s, path: %q, scopes: [SCOPE]}  to apis/%s/data.yaml of the policies",
		methods, m.method, m.cfg.maskPath(row), m.api)}, nil, false, err
}

// fixPath returns the step for a path that could not be split into segments.
func (m *simulation) fixPath(ctx context.Context, path string) (step, error) {
	parameters := m.explainer.Needs(m.api).Parameters
	var keys []string
	permitted := len(parameters.MayHold)
	for {
		segments, err := target.Segments(path, parameters)
		character, notPermitted := errors.AsType[target.NotPermittedError](err)
		switch {
		case notPermitted && character == target.ErrRawSemicolon:
			parameters.RawSemicolon = true
			keys = append(keys, "parameters.raw_semicolon: true")
			if !slices.Contains(parameters.MayHold, ";") {
				parameters.MayHold = append(slices.Clone(parameters.MayHold), ";")
			}
			continue
		case notPermitted:
			parameters.MayHold = append(slices.Clone(parameters.MayHold), string(character))
			continue
		case err != nil:
			return step{corrects, fmt.Sprintf("%v%s, so it matches no route: correct the path", err, m.invalidSegment(path, parameters))}, nil
		case len(parameters.MayHold) == permitted && len(keys) == 0: // the path is valid, so the query is the cause
			return step{corrects, "the policy reads the query, and servers may parse this query differently: send the query without a raw ; or # and without invalid escapes"}, nil
		}
		in := m.input
		in.Path = target.JoinSegments(segments)
		explanation, err := m.explainer.Explain(ctx, in)
		if err != nil {
			return step{}, err
		}
		mayHold, _ := json.Marshal(parameters.MayHold) // a list of strings has no error
		keys = append([]string{"parameters.may_hold: " + string(mayHold)}, keys...)
		text := fmt.Sprintf("allow these characters in the parameters of %s, if its servers handle them: %s  in apis/%s/data.yaml of the policies",
			m.api, strings.Join(keys, " and "), m.api)
		if explanation.Route == "" {
			text += "; then add a row with a {parameter} there"
		}
		return step{widens, text}, nil
	}
}

// invalidSegment names the first segment that has an error of its own, or returns "".
func (m *simulation) invalidSegment(path string, parameters target.Parameters) string {
	for _, s := range strings.Split(path, "/") {
		if _, err := target.Segments("/"+s, parameters); err != nil {
			return fmt.Sprintf(" (in the segment %q)", m.cfg.maskPath(s))
		}
	}
	return ""
}

// fixSpelling returns the path and the route of the table if the path differs from this route only in letter case or in a slash at the
// end. For any other path, the explanation has no route.
func (m *simulation) fixSpelling(ctx context.Context, path string) (string, policies.Explanation, error) {
	slash := path + "/"
	if without, ok := strings.CutSuffix(path, "/"); ok {
		slash = without
	}
	for _, other := range []string{slash, strings.ToLower(path), strings.ToLower(slash)} {
		explanation, err := m.findRoute(ctx, m.api, m.method, other)
		if explanation.Route != "" || err != nil {
			return other, explanation, err
		}
	}
	return "", policies.Explanation{}, nil
}

// otherMethods lists the methods for which the table has the path.
func (m *simulation) otherMethods(ctx context.Context, path string) (string, error) {
	methods := make(map[string]bool)
	for _, r := range m.explainer.Tables()[m.api].Routes {
		method, _, _ := strings.Cut(r.Name(), " ")
		methods[method] = true
	}
	var list []string
	for _, method := range slices.Sorted(maps.Keys(methods)) {
		explanation, err := m.findRoute(ctx, m.api, method, path)
		if err != nil {
			return "", err
		}
		if explanation.Route != "" {
			list = append(list, method+" ("+explanation.Row+")")
		}
	}
	return strings.Join(list, ", "), nil
}

// findRoute evaluates the policy for the given API, method and path, to find the route. The parameter `path` is the path as a
// client sends it.
func (m *simulation) findRoute(ctx context.Context, api, method, path string) (policies.Explanation, error) {
	in := m.input
	in.API, in.Method = api, method
	segments, _ := target.Segments(path, m.explainer.Needs(api).Parameters)
	in.Path = target.JoinSegments(segments)
	in.Context = authz.Fields{{Name: "api", Value: api}}
	return m.explainer.Explain(ctx, in)
}
