-- +goose Up
-- The privileges of the role keywicket_operator, which migration 00015 creates. The role can create, change and revoke what the
-- operator's commands create, change and revoke. It deletes only members. It reads the digests of keys and access tokens, because
-- the commands find tokens by their digest. It cannot read the digests of codes, refresh tokens and app secrets.
--
-- A role cannot be limited to changes that revoke something. So with SQL, this role can also make a revoked object valid again, as
-- it can create new tokens.
--
-- On a live database: this migration takes milliseconds. It does not wait for queries, and queries do not wait for it. Code of
-- every version works as before. This migration cannot be undone. If a later migration adds a table or a column that a command uses,
-- that migration has to grant access. TestOperatorsLoginRunsEveryCommand fails if it does not.

GRANT USAGE ON SCHEMA keywicket TO keywicket_operator;
GRANT SELECT (version_id, is_applied, tstamp) ON keywicket.migrations TO keywicket_operator;

GRANT SELECT (id, slug, name, created_at, attributes), INSERT (id, slug, name, attributes), UPDATE (attributes)
    ON keywicket.workspaces TO keywicket_operator;
GRANT SELECT (id, email, created_at, banned_until, mfa_enrolled, attributes), INSERT (id, email, attributes), UPDATE (attributes)
    ON keywicket.users TO keywicket_operator;
GRANT SELECT (workspace_id, user_id, role), INSERT (workspace_id, user_id, role), UPDATE (role), DELETE
    ON keywicket.members TO keywicket_operator;

GRANT SELECT (id, api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, user_id, created_at, expires_at,
              revoked_at, attributes),
      INSERT (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, user_id, created_at, expires_at,
              revoked_at, attributes),
      UPDATE (revoked_at, attributes)
    ON keywicket.tokens TO keywicket_operator;
GRANT SELECT (token_id, last_used_at) ON keywicket.token_usage TO keywicket_operator;

GRANT SELECT (session_id, user_id, revoked_at), INSERT (session_id, user_id) ON keywicket.revoked_sessions TO keywicket_operator;

GRANT SELECT (id, api, name, redirect_uris, confidential, development, created_at, revoked_at),
      INSERT (id, api, name, redirect_uris, secret_digest, confidential, development),
      UPDATE (secret_digest, revoked_at)
    ON keywicket.oauth_apps TO keywicket_operator;
GRANT SELECT (id, app_id, user_id, scopes, created_at, revoked_at), UPDATE (revoked_at) ON keywicket.oauth_grants TO keywicket_operator;
GRANT SELECT (grant_id, workspace_id) ON keywicket.oauth_grant_workspaces TO keywicket_operator;
GRANT SELECT (id, digest, grant_id, scopes, created_at, expires_at, revoked_at) ON keywicket.oauth_access_tokens TO keywicket_operator;
-- The status of a grant depends on its codes and tokens.
GRANT SELECT (grant_id, expires_at, used_at) ON keywicket.oauth_codes, keywicket.oauth_refresh_tokens TO keywicket_operator;

-- `sidecar list` and --wait. Every role may insert rows into keywicket.changes (migration 00011).
GRANT SELECT (id, version, policies, bound, stale_if_error, snapshot, lease, lag, started_at, seen_at)
    ON keywicket.sidecars TO keywicket_operator;
GRANT SELECT (xid) ON keywicket.changes TO keywicket_operator;
GRANT SELECT (bound) ON keywicket.upkeep TO keywicket_operator;
GRANT SELECT (made_at) ON keywicket.world TO keywicket_operator;
