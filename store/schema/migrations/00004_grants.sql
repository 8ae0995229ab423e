-- +goose Up
-- The privileges of the two roles. An attacker who takes over a sidecar can read digests and scopes, but cannot forge tokens.
--
-- On a live database: this migration takes milliseconds. It does not wait for queries, and queries do not wait for it. It cannot
-- be undone. If a later migration adds a table or a column that a role reads, that migration has to grant access.

GRANT USAGE ON SCHEMA keywicket TO keywicket_sidecar, keywicket_issuer;

-- The columns that look-ups read.
GRANT SELECT (id, api, kind, environment, digest, scopes, workspace_id, user_id, expires_at, revoked_at)
    ON keywicket.tokens TO keywicket_sidecar;
GRANT SELECT (id, slug) ON keywicket.workspaces TO keywicket_sidecar;
GRANT SELECT (workspace_id, user_id, role) ON keywicket.members TO keywicket_sidecar;
GRANT SELECT, INSERT, UPDATE ON keywicket.token_usage TO keywicket_sidecar;

-- The tables that a consent page shows.
GRANT SELECT ON keywicket.workspaces, keywicket.users, keywicket.members TO keywicket_issuer;
