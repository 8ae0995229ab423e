package explain

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/table"
)

// fix returns the changes that get the request allowed: a header to send, a command to run, or a row to add. If one step is not
// enough, it returns several steps in order. For a header, credential or role to change, it evaluates the policy with the change.
// It does not check a row to add, or the steps for a banned user. For an allowed request it returns nothing. See [proposals] for the
// two results.
func (m *simulation) fix(ctx context.Context) (fix, widen string, err error) {
	if m.explanation.Allow {
		return "", "", nil
	}
	var before, after []step
	if m.explanation.Route == "" {
		s, corrected, otherAPI, err := m.fixRoute(ctx)
		switch {
		case err != nil:
			return "", "", err
		case otherAPI:
			fix, widen = proposals([]step{s})
			return fix, widen, nil
		case corrected == nil:
			after = []step{s}
		case corrected.explanation.Allow:
			return s.text, "", nil
		default:
			before, m = []step{s}, corrected
		}
	}
	banned, err := m.bannedSteps(ctx)
	if err != nil {
		return "", "", err
	}
	before = append(before, banned...)
	steps, err := m.sufficientSteps(ctx)
	if err != nil {
		return "", "", err
	}
	switch {
	case steps != nil:
		steps = append(steps, after...)
	default:
		steps = []step{{corrects, m.noFix()}}
	}
	fix, widen = proposals(append(before, steps...))
	return fix, widen, nil
}

// sufficientSteps returns the steps of the first attempt that is allowed, or whose only problem is the route. It returns nil if there
// is none, and an empty list if the attempt needs no steps.
func (m *simulation) sufficientSteps(ctx context.Context) ([]step, error) {
	attempts, err := m.attempts(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range attempts {
		changed := simulation{
			explainer: m.explainer, cfg: m.cfg, api: m.api, method: m.method, path: m.path,
			format: m.format, workspace: a.header, lookupResult: a.lookupResult(),
		}
		if err := changed.check(ctx); err != nil {
			return nil, err
		}
		if changed.explanation.Allow || changed.explanation.Reason == authz.ReasonNoRoute {
			return append([]step{}, a.steps...), nil
		}
	}
	return nil, nil
}

// bannedSteps returns the step for a banned user, or nothing if the user is not banned. It notes the ban in m.banned.
func (m *simulation) bannedSteps(ctx context.Context) ([]step, error) {
	if m.registry == nil || m.token.UserID == nil || m.explanation.Reason != authz.ReasonRevoked {
		return nil, nil
	}
	u, err := m.registry.User(ctx, *m.token.UserID)
	if m.banned = err == nil && u.Banned(time.Now()); !m.banned {
		return nil, err
	}
	return []step{{restores, fmt.Sprintf("the user is banned until %s: wait, or set banned_until in keywicket.users to null", u.BannedUntil.UTC().Format(time.RFC3339))}}, nil
}

// valid reports whether the credential is valid, apart from a ban of its user.
func (m *simulation) valid() bool {
	return m.input.Denial == "" || m.banned && m.token.RevokedAt == nil && !m.expired() && m.token.API == m.api
}

// expired reports whether the token has expired.
func (m *simulation) expired() bool {
	return m.token.ExpiresAt != nil && !time.Now().Before(*m.token.ExpiresAt)
}

// noFix returns the text for a request that no change by an operator would allow.
func (m *simulation) noFix() string {
	ofUser := func(f authz.CredentialFormat) bool { return f.Kind.OfUser() }
	if m.level() == table.LevelUser && !slices.ContainsFunc(m.cfg.APIs[m.api].OperatorFormats(), ofUser) {
		return "the route is about a user, and " + m.api + " has no kind of token for users"
	}
	return "no header, scope, role or kind of token gets the request allowed: see the rule"
}
