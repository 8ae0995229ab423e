package registry

import (
	"context"
	"fmt"
	"time"
)

// NoticeKind is a reason why a token needs attention.
type NoticeKind string

// The values of NoticeKind.
const (
	NoticeExpiring    NoticeKind = "expiring"     // the token expires within ExpiringSoon
	NoticeUnused      NoticeKind = "unused"       // nobody has used the token for UnusedLong
	NoticeCreatorLeft NoticeKind = "creator_left" // see [Token].CreatorLeft
)

// The times of the notices.
const (
	ExpiringSoon = 14 * 24 * time.Hour
	UnusedLong   = 90 * 24 * time.Hour
)

// Notice is the number of an API's active tokens that need attention for one reason.
type Notice struct {
	API    string     `db:"api"`
	Kind   NoticeKind `db:"kind"`
	Tokens int        `db:"tokens"`
}

// Notices counts the active tokens that need attention. An API that has active tokens has a notice of each kind, also for no tokens.
// Notices reads all tokens, which takes about two seconds for a million tokens. In workspaces with the rule LeaversKeep, tokens whose
// creator has left need no attention.
func (r *Registry) Notices(ctx context.Context) ([]Notice, error) {
	list := []Notice{}
	err := r.db.SelectContext(ctx, &list, `
		SELECT api, kind, tokens
		FROM (SELECT t.api,
			count(*) FILTER (WHERE t.expires_at <= now() + $1 * interval '1 second') AS expiring,
			count(*) FILTER (WHERE COALESCE(u.last_used_at, t.created_at) < now() - $2 * interval '1 second') AS unused,
			count(*) FILTER (WHERE w.id IS NOT NULL AND m.user_id IS NULL) AS creator_left
			FROM keywicket.tokens t
			LEFT JOIN keywicket.token_usage u ON u.token_id = t.id
			LEFT JOIN keywicket.workspaces w ON w.id = t.workspace_id AND t.created_by IS NOT NULL AND w.leaver_rule <> 'keep'
			LEFT JOIN keywicket.members m ON m.workspace_id = t.workspace_id AND m.user_id = t.created_by
			WHERE t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())
			GROUP BY t.api) AS counted,
			LATERAL (VALUES ('expiring', expiring), ('unused', unused), ('creator_left', creator_left)) AS notice (kind, tokens)
		ORDER BY api, kind`, ExpiringSoon.Seconds(), UnusedLong.Seconds())
	if err != nil {
		return nil, fmt.Errorf("count the tokens that need attention: %w", err)
	}
	return list, nil
}
