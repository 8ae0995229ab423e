-- +goose Up
-- All that the two roles may do. Whoever takes over a sidecar can read digests and scopes, and forge nothing.
--
-- On a live database: takes milliseconds; a grant waits for no query, and no query for it. Forward only. A later
-- migration that adds a table or a column to what a role reads has to grant it.

GRANT USAGE ON SCHEMA keywicket TO keywicket_sidecar, keywicket_issuer;

-- What a look-up reads, column by column.
GRANT SELECT (id, api, kind, environment, digest, scopes, workspace_id, user_id, expires_at, revoked_at)
    ON keywicket.tokens TO keywicket_sidecar;
GRANT SELECT (id, slug) ON keywicket.workspaces TO keywicket_sidecar;
GRANT SELECT (workspace_id, user_id, role) ON keywicket.members TO keywicket_sidecar;
GRANT SELECT, INSERT, UPDATE ON keywicket.token_usage TO keywicket_sidecar;

-- What a consent page shows.
GRANT SELECT ON keywicket.workspaces, keywicket.users, keywicket.members TO keywicket_issuer;
