package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/test/supabase"
)

// credentialKind is the kind of a subject's credential.
type credentialKind string

const (
	workspaceToken credentialKind = "token"
	personalKey    credentialKind = "key"
	session        credentialKind = "session"
	oauthToken     credentialKind = "oauth"
)

var kinds = [...]credentialKind{workspaceToken, personalKey, session, oauthToken}

// subject is a credential and a request that uses it. No two subjects share a workspace, a user or an app. So a change of any
// row changes only one subject.
type subject struct {
	kind                credentialKind
	user, workspace     string
	slug                string
	id                  string // ID of the token's row, or of the session
	digest              []byte
	grant, app          string
	request             *authv3.CheckRequest
	api, format, prefix string
}

// uuid returns a random UUID.
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func newSubject(k credentialKind, n int, issuer *supabase.Issuer) *subject {
	id := uuid()
	s := &subject{
		kind: k, user: uuid(), workspace: strings.ReplaceAll(id, "-", "")[:24], slug: fmt.Sprintf("w-%d", n), id: id,
		grant: uuid(), app: uuid(), api: "velocity", format: "personal_key", prefix: "velu_",
	}
	method, path, header := "POST", "/api/issues", [2]string{"x-workspace-slug", s.slug}
	switch k {
	case workspaceToken:
		s.api, s.format, s.prefix = "velaflows", "workspace_token", "sk_live_"
		method, path, header = "GET", "/api/v1/inbox/conversations", [2]string{"x-workspace-id", s.workspace}
	case oauthToken:
		s.format, s.prefix = "oauth_token", "velo_"
	}
	var secret string
	if k == session {
		secret = issuer.Token(s.user, supabase.Fields{"session_id": s.id})
	} else {
		key := authz.CredentialFormat{Prefix: s.prefix, BodyLength: 40}.NewKey()
		digest := key.Digest()
		secret, s.digest = key.Reveal(), digest[:]
	}
	s.request = &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: method, Path: path, Host: "api.test", HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
				{Key: "authorization", RawValue: []byte("Bearer " + secret)}, {Key: header[0], RawValue: []byte(header[1])},
			}},
		}},
		ContextExtensions: map[string]string{"api": s.api},
	}}
	return s
}

func quote(s string) string { return pq.QuoteLiteral(s) }

// allowSQL returns SQL that creates or repairs the subject's rows, so that the subject is allowed.
func (s *subject) allowSQL() string {
	var b strings.Builder
	add := func(statement string, values ...any) { fmt.Fprintf(&b, statement+";\n", values...) }
	add(`INSERT INTO keywicket.workspaces (id, slug, name) VALUES (%s, %s, 'w') ON CONFLICT DO NOTHING`, quote(s.workspace), quote(s.slug))
	if s.kind != workspaceToken {
		add(`INSERT INTO keywicket.users (id, email) VALUES (%s, %s)
			ON CONFLICT (id) DO UPDATE SET banned_until = NULL WHERE users.banned_until IS NOT NULL`, quote(s.user), quote(s.user+"@example.com"))
		add(`INSERT INTO keywicket.members (workspace_id, user_id, role) VALUES (%s, %s, 'member')
			ON CONFLICT (workspace_id, user_id) DO UPDATE SET role = 'member' WHERE members.role <> 'member'`, quote(s.workspace), quote(s.user))
	}
	switch s.kind {
	case workspaceToken, personalKey:
		workspace, user := quote(s.workspace), "NULL"
		if s.kind == personalKey {
			workspace, user = "NULL", quote(s.user)
		}
		add(`INSERT INTO keywicket.tokens (id, api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, user_id)
			VALUES (%s, %s, %s, 'live', %s, %s, 'n', '{%s}', %s, %s)
			ON CONFLICT (id) DO UPDATE SET revoked_at = NULL WHERE tokens.revoked_at IS NOT NULL`,
			quote(s.id), quote(s.api), quote(s.format), quote(s.prefix), s.digestSQL(), s.scope(), workspace, user)
	case session:
		add(`DELETE FROM keywicket.revoked_sessions WHERE session_id = %s OR user_id = %s`, quote(s.id), quote(s.user))
	case oauthToken:
		add(`INSERT INTO keywicket.oauth_apps (id, api, name, redirect_uris, secret_digest, confidential)
			VALUES (%s, 'velocity', 'a', '{https://app.example/}', sha256('s'), true)
			ON CONFLICT (id) DO UPDATE SET revoked_at = NULL WHERE oauth_apps.revoked_at IS NOT NULL`, quote(s.app))
		add(`INSERT INTO keywicket.oauth_grants (id, app_id, user_id, scopes) VALUES (%s, %s, %s, '{%s}')
			ON CONFLICT (id) DO UPDATE SET revoked_at = NULL WHERE oauth_grants.revoked_at IS NOT NULL`,
			quote(s.grant), quote(s.app), quote(s.user), s.scope())
		add(`INSERT INTO keywicket.oauth_grant_workspaces (grant_id, workspace_id) VALUES (%s, %s) ON CONFLICT DO NOTHING`,
			quote(s.grant), quote(s.workspace))
		add(`INSERT INTO keywicket.oauth_access_tokens (id, digest, grant_id, scopes, expires_at)
			VALUES (%s, %s, %s, '{%s}', clock_timestamp() + interval '1 day')
			ON CONFLICT (id) DO UPDATE SET revoked_at = NULL WHERE oauth_access_tokens.revoked_at IS NOT NULL`,
			quote(s.id), s.digestSQL(), quote(s.grant), s.scope())
	}
	return b.String()
}

func (s *subject) digestSQL() string { return `'\x` + hex.EncodeToString(s.digest) + `'` }

func (s *subject) scope() string {
	if s.kind == workspaceToken {
		return "inbox:read"
	}
	return "issues:write"
}

// outcomesQuery returns the status that a check of each subject must get. The query has no SQL in common with the sidecar.
const outcomesQuery = `
WITH s AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS s (kind, id, user_id, workspace_id, n))
SELECT CASE
	WHEN s.kind <> 'token' AND NOT EXISTS (SELECT FROM keywicket.users u
		WHERE u.id = s.user_id AND (u.banned_until IS NULL OR u.banned_until < now())) THEN 401
	WHEN s.kind IN ('token', 'key') AND NOT EXISTS (SELECT FROM keywicket.tokens t WHERE t.id = s.id AND t.revoked_at IS NULL) THEN 401
	WHEN s.kind = 'session' AND EXISTS (SELECT FROM keywicket.revoked_sessions r
		WHERE r.session_id = s.id OR r.user_id = s.user_id) THEN 401
	WHEN s.kind = 'oauth' AND NOT EXISTS (SELECT FROM keywicket.oauth_access_tokens t
		JOIN keywicket.oauth_grants g ON g.id = t.grant_id JOIN keywicket.oauth_apps a ON a.id = g.app_id
		WHERE t.id = s.id AND t.revoked_at IS NULL AND g.revoked_at IS NULL AND a.revoked_at IS NULL) THEN 401
	WHEN s.kind <> 'token' AND NOT EXISTS (SELECT FROM keywicket.members m
		WHERE m.user_id = s.user_id AND m.workspace_id = s.workspace_id AND m.role <> 'guest') THEN 403
	WHEN s.kind = 'oauth' AND NOT EXISTS (SELECT FROM keywicket.oauth_access_tokens t
		JOIN keywicket.oauth_grant_workspaces w ON w.grant_id = t.grant_id WHERE t.id = s.id AND w.workspace_id = s.workspace_id) THEN 403
	ELSE 200 END
FROM s ORDER BY s.n`

func outcomes(ctx context.Context, db *sqlx.DB, subjects []*subject) ([]outcome, error) {
	columns := make([]pq.StringArray, 4)
	for _, s := range subjects {
		for i, value := range []string{string(s.kind), s.id, s.user, s.workspace} {
			columns[i] = append(columns[i], value)
		}
	}
	var codes []int
	if err := db.SelectContext(ctx, &codes, outcomesQuery, columns[0], columns[1], columns[2], columns[3]); err != nil {
		return nil, fmt.Errorf("read the rows: %w", err)
	}
	all := make([]outcome, len(codes))
	for i, code := range codes {
		all[i] = map[int]outcome{200: allow, 401: unauthorized, 403: forbidden}[code]
	}
	return all, nil
}
