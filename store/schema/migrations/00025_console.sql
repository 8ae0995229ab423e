-- +goose Up
-- What the console needs: the owners of apps, the keys that make a repeated request harmless, and the privileges of the role
-- keywicket_console. Migration 00024 creates the role.
--
-- The role can create and revoke tokens, and register, rotate and revoke apps. It cannot read a digest, it cannot make a token end
-- later, and it cannot change users or members. In a workspace, it can change only the leaver rule. A role cannot be limited to
-- changes that revoke something. So with SQL, this role can also make a revoked token valid again, as it can create new tokens.
--
-- On a live database: this migration waits for running transactions that use apps. Adding the columns takes milliseconds. Code of
-- every version works as before. This migration cannot be undone.

-- The user who registered the app, and who can manage it in the console. NULL: only the operator manages it.
ALTER TABLE keywicket.oauth_apps ADD COLUMN owner_id text REFERENCES keywicket.users ON DELETE SET NULL;
CREATE INDEX oauth_apps_owner_id ON keywicket.oauth_apps (owner_id) WHERE owner_id IS NOT NULL;

-- A row for each creation with an idempotency key. A repeated request finds the row, and creates nothing. The console deletes rows
-- after a day.
CREATE TABLE keywicket.idempotency_keys (
    digest         bytea       NOT NULL CONSTRAINT idempotency_keys_pkey PRIMARY KEY, -- of the caller and the key
    request_digest bytea       NOT NULL,
    object_id      text,       -- NULL only inside of the transaction that creates the object
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX idempotency_keys_created_at ON keywicket.idempotency_keys (created_at);

GRANT USAGE ON SCHEMA keywicket TO keywicket_console;
GRANT SELECT (id, slug, name, created_at, attributes, leaver_rule), UPDATE (leaver_rule) ON keywicket.workspaces TO keywicket_console;
GRANT SELECT (id, email, created_at, banned_until, mfa_enrolled, attributes) ON keywicket.users TO keywicket_console;
GRANT SELECT (workspace_id, user_id, role) ON keywicket.members TO keywicket_console;
GRANT SELECT (session_id, user_id, revoked_at) ON keywicket.revoked_sessions TO keywicket_console;
GRANT SELECT (id, api, kind, environment, visible_prefix, name, scopes, workspace_id, user_id, created_by, created_at, expires_at, revoked_at, attributes),
      INSERT (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, user_id, expires_at, attributes),
      UPDATE (revoked_at)
    ON keywicket.tokens TO keywicket_console;
GRANT SELECT (token_id, last_used_at) ON keywicket.token_usage TO keywicket_console;
GRANT SELECT ON keywicket.token_use, keywicket.grant_usage TO keywicket_console;
GRANT EXECUTE ON FUNCTION keywicket.shorten_token(text, interval) TO keywicket_console;
GRANT SELECT (id, api, name, redirect_uris, scopes, confidential, development, owner_id, created_at, revoked_at),
      INSERT (id, api, name, redirect_uris, scopes, secret_digest, confidential, development, owner_id),
      UPDATE (secret_digest, revoked_at)
    ON keywicket.oauth_apps TO keywicket_console;
GRANT SELECT (id, app_id, user_id, scopes, created_at, revoked_at), UPDATE (revoked_at) ON keywicket.oauth_grants TO keywicket_console;
GRANT SELECT (revoked_reason) ON keywicket.tokens TO keywicket_console;
GRANT SELECT (revoked_reason) ON keywicket.oauth_grants TO keywicket_console;
GRANT EXECUTE ON FUNCTION keywicket.revoke_leaked(bytea[]) TO keywicket_console;
GRANT SELECT (grant_id, workspace_id) ON keywicket.oauth_grant_workspaces TO keywicket_console;
-- The status of a grant depends on its codes and tokens.
GRANT SELECT (grant_id, expires_at, revoked_at) ON keywicket.oauth_access_tokens TO keywicket_console;
GRANT SELECT (grant_id, expires_at, used_at) ON keywicket.oauth_codes, keywicket.oauth_refresh_tokens TO keywicket_console;
GRANT SELECT ON keywicket.audit_log TO keywicket_console;
GRANT SELECT, INSERT, UPDATE (object_id), DELETE ON keywicket.idempotency_keys TO keywicket_console;

GRANT SELECT (owner_id), INSERT (owner_id) ON keywicket.oauth_apps TO keywicket_operator;
