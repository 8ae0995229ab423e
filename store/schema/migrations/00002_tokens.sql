-- +goose Up
-- The tokens, and the time of the last use of each.
--
-- On a live database: this migration only creates tables, locks nothing that is in use, and takes milliseconds. It cannot be
-- undone.
--
-- Usage has its own table, because every sidecar writes usage all the time. If usage were in the table tokens, each write would
-- create a new version of a token's row. This would enlarge the table and the indexes that look-ups read, and would count as a
-- change of the token.

CREATE TABLE keywicket.tokens (
    id             text        NOT NULL DEFAULT gen_random_uuid()::text CONSTRAINT tokens_pkey PRIMARY KEY,
    api            text        NOT NULL CONSTRAINT tokens_api_form CHECK (api ~ '^[A-Za-z0-9_-]{1,63}$'),
    -- A later version of keywicket may use a new kind before the database is migrated. So the constraint is a pattern, not a
    -- list of kinds.
    kind           text        NOT NULL CONSTRAINT tokens_kind_form CHECK (kind ~ '^[a-z][a-z_]{0,62}$'),
    environment    text        NOT NULL CONSTRAINT tokens_environment_form CHECK (environment IN ('live', 'sandbox')),
    visible_prefix text        NOT NULL CONSTRAINT tokens_visible_prefix_form CHECK (visible_prefix <> ''),
    -- The SHA-256 of the whole key. It is unique across all APIs, so that two APIs cannot have the same key.
    digest         bytea       NOT NULL CONSTRAINT tokens_digest_key UNIQUE
                               CONSTRAINT tokens_digest_form CHECK (octet_length(digest) = 32),
    name           text        NOT NULL CONSTRAINT tokens_name_form CHECK (name ~ '\S' AND name !~ '[[:cntrl:]]'),
    scopes         text[]      NOT NULL CONSTRAINT tokens_scopes_form CHECK (array_position(scopes, NULL) IS NULL),
    workspace_id   text        REFERENCES keywicket.workspaces ON DELETE CASCADE,
    user_id        text        REFERENCES keywicket.users ON DELETE CASCADE,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at     timestamptz,
    revoked_at     timestamptz,
    CONSTRAINT tokens_one_owner CHECK (num_nonnulls(workspace_id, user_id) = 1)
);
-- These indexes speed up lists with the newest tokens first, and ON DELETE CASCADE from the tables workspaces and users.
CREATE INDEX tokens_workspace_id ON keywicket.tokens (workspace_id, created_at) WHERE workspace_id IS NOT NULL;
CREATE INDEX tokens_user_id ON keywicket.tokens (user_id, created_at) WHERE user_id IS NOT NULL;
CREATE INDEX tokens_created_at ON keywicket.tokens (created_at);

CREATE TABLE keywicket.token_usage (
    token_id     text        NOT NULL CONSTRAINT token_usage_pkey PRIMARY KEY
                             REFERENCES keywicket.tokens ON DELETE CASCADE,
    last_used_at timestamptz NOT NULL
) WITH (fillfactor = 70); -- leaves space on each page for new versions of its rows, so that an update changes no index
