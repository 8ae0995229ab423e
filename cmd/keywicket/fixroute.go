package main

import (
	"context"
	"fmt"
	"maps"
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
	path := m.input.Path
	if m.input.Segments == nil {
		return "the path is not canonical, and matches no route: send it without empty or dot segments, ';' and escapes of them", false, nil
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
	if strings.ContainsAny(path, "*!") {
		return "the path has a * or !, which no row of a table can: choose another path", false, nil
	}
	methods, err := m.otherMethods(ctx, path)
	if methods != "" {
		methods = "the path is listed for " + methods + "; for " + m.method + " too, "
	}
	return fmt.Sprintf("%sadd the row  - {method: %s, path: %q, scopes: [SCOPE]}  to apis/%s/data.yaml of the policies",
		methods, m.method, path, m.api), false, err
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
		methods[r.Method] = true
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

// matched asks the policy which route another request would address.
func (m *imagined) matched(ctx context.Context, api, method, path string) (policies.Explanation, error) {
	in := m.input
	in.API, in.Method, in.Path, in.Segments = api, method, path, authz.Segments(path)
	in.Context = map[string]string{"api": api}
	return m.explainer.Explain(ctx, in)
}
