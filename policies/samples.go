package policies

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/fault"
	"github.com/keywicket/keywicket/policies/table"
)

// probe decides a sample request for each row that rules of an earlier version may read wrongly. It returns an error for a row
// if the rules find another row for the sample, or allow the sample without any scope.
func (p *policy) probe(ctx context.Context) error {
	var all fault.Errors
	for _, api := range slices.Sorted(maps.Keys(p.tables)) {
		t := p.tables[api]
		everyRow := p.earlierRoute && t.HasNewForms()
		for i, r := range t.Routes {
			if len(r.AnyOf) == 0 && !everyRow {
				continue
			}
			method, path := r.Sample()
			if found, ok := t.Index().Find(method, path); !ok || found != i {
				continue
			}
			file := "apis/" + api + "/data.yaml"
			in := sampleInput(api, method, path, r.Level)
			d, err := p.decide(ctx, &in, p.row(&in))
			switch {
			case err != nil: // not a fault: a rule may need a value that the sample lacks
			case d.Allow && len(r.AnyOf) > 0:
				all = append(all, fault.Fault{File: file, Line: r.Line, Text: "the rules allow a token without any scope, because they do not read any_of: use keywicket/decision.rego and route.rego of this version"})
			case p.earlierRoute && d.Route != r.Name():
				all = append(all, fault.Fault{File: file, Line: r.Line, Text: fmt.Sprintf(
					"keywicket/route.rego finds %q for %s %s instead of %s: use the route.rego of this version", d.Route, method, path, r.Name())})
			}
		}
	}
	return all.Err()
}

// sampleInput returns the input of a principal without scopes. At [table.LevelUser], the principal is a user's key. At any other
// level, the principal is a workspace's key with access to the workspace.
func sampleInput(api, method, path string, level table.Level) authz.Input {
	in := authz.Input{
		API: api, Method: method, Path: path, Time: time.Now(),
		Principal: &authz.Principal{ID: "probe", Kind: authz.KindWorkspaceKey, API: api, Environment: authz.Live},
		Workspace: authz.Workspace{Requested: true, Granted: true, ID: strings.Repeat("0", 24), Slug: "probe"},
	}
	if level == table.LevelUser {
		in.Principal.Kind, in.Principal.UserID, in.Workspace = authz.KindPersonalKey, "probe", authz.Workspace{}
	}
	return in
}
