package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
)

var methodForm = regexp.MustCompile(`^[A-Z]+(-[A-Z]+)*$`) // as in a table

// fixRoute: another spelling that the table has, or a row to add. Elsewhere: it is another API's route, and nothing done
// for this one helps.
func (m *imagined) fixRoute(ctx context.Context) (step string, elsewhere bool, err error) {
	path, _, _ := strings.Cut(m.path, "?")
	if m.input.Segments() == nil {
		step, err := m.fixPath(ctx, path)
		return step, false, err
	}
	for _, api := range slices.Sorted(maps.Keys(m.cfg.APIs)) {
		why, err := m.matched(ctx, api, m.method, path)
		if err != nil {
			return "", false, err
		}
		if why.Route != "" {
			return fmt.Sprintf("%s lists it (%s): --api %s", api, why.Row, api), true, nil
		}
	}
	step, err = m.fixSpelling(ctx, path)
	if step != "" || err != nil {
		return step, false, err
	}
	if !methodForm.MatchString(m.method) {
		return fmt.Sprintf("%q is no method: send one in capitals, such as GET", m.method), false, nil
	}
	row, odd := rowFor(m.input.Segments())
	if odd != "" {
		return fmt.Sprintf("the path has a %s, which no row of a table can: choose another path, or add a row with a {parameter} there", odd), false, nil
	}
	methods, err := m.otherMethods(ctx, path)
	if methods != "" {
		methods = "the path is listed for " + methods + "; for " + m.method + " too, "
	}
	return fmt.Sprintf("%sadd the row  - {method: %s, path: %q, scopes: [SCOPE]}  to apis/%s/data.yaml of the policies",
		methods, m.method, row, m.api), false, err
}

// rowFor is the path of a row that has these segments, or the character that a row cannot have.
func rowFor(segments []string) (row, odd string) {
	for _, s := range segments {
		if i := strings.IndexAny(s, "#%;?"); i >= 0 {
			return "", s[i : i+1]
		}
		s = strings.ReplaceAll(url.PathEscape(s), "%2C", ",") // which needs no escape in a path
		if strings.HasPrefix(s, ":") {
			s = "%3A" + s[1:] // a table takes :id for a parameter that is written wrongly
		}
		row += "/" + s
	}
	return row, ""
}

// fixPath tells why the path has no segments, and what would give it some.
func (m *imagined) fixPath(ctx context.Context, path string) (string, error) {
	parameters := m.explainer.Reading(m.api).Parameters
	var keys []string
	permitted := len(parameters.MayHold)
	for {
		segments, err := authz.Segments(path, parameters)
		character, notPermitted := errors.AsType[authz.NotPermittedError](err)
		switch {
		case notPermitted && character == authz.ErrRawSemicolon:
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
			return fmt.Sprintf("%v, so it matches no route: send it without", err), nil
		case len(parameters.MayHold) == permitted && len(keys) == 0: // the path is not to blame
			return "the policy reads the query, and servers may read this one differently: send it without a raw ; or # and without broken escapes", nil
		}
		in := m.input
		in.Path = authz.JoinSegments(segments)
		why, err := m.explainer.Explain(ctx, in)
		if err != nil {
			return "", err
		}
		held, _ := json.Marshal(parameters.MayHold) // strings
		keys = append([]string{"parameters.may_hold: " + string(held)}, keys...)
		step := fmt.Sprintf("let the parameters of %s hold these characters, if its servers can take them: %s  in apis/%s/data.yaml of the policies",
			m.api, strings.Join(keys, " and "), m.api)
		if why.Route == "" {
			step += "; then add a row with a {parameter} there"
		}
		return step, nil
	}
}

// fixSpelling finds a route that differs in the case or in a slash at the end.
func (m *imagined) fixSpelling(ctx context.Context, path string) (string, error) {
	slash := path + "/"
	if without, ok := strings.CutSuffix(path, "/"); ok {
		slash = without
	}
	for _, other := range []string{path, slash, strings.ToLower(path), strings.ToLower(slash)} {
		why, err := m.matched(ctx, m.api, strings.ToUpper(m.method), other)
		if err != nil {
			return "", err
		}
		if why.Route != "" {
			return fmt.Sprintf("the table has %s (%s): send it like that, to the letter and the last slash", why.Route, why.Row), nil
		}
	}
	return "", nil
}

func (m *imagined) otherMethods(ctx context.Context, path string) (string, error) {
	methods := make(map[string]bool)
	for _, r := range m.explainer.Tables()[m.api].Routes {
		method, _, _ := strings.Cut(r.Name(), " ")
		methods[method] = true
	}
	var list []string
	for _, method := range slices.Sorted(maps.Keys(methods)) {
		why, err := m.matched(ctx, m.api, method, path)
		if err != nil {
			return "", err
		}
		if why.Route != "" {
			list = append(list, method+" ("+why.Row+")")
		}
	}
	return strings.Join(list, ", "), nil
}

// matched asks the policy which route another request would address. The path is as a client sends it.
func (m *imagined) matched(ctx context.Context, api, method, path string) (policies.Explanation, error) {
	in := m.input
	in.API, in.Method = api, method
	segments, _ := authz.Segments(path, m.explainer.Reading(api).Parameters)
	in.Path = authz.JoinSegments(segments)
	in.Context = authz.Fields{{Name: "api", Value: api}}
	return m.explainer.Explain(ctx, in)
}
