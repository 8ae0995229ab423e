-- +goose Up
-- Workspaces, users, and the users' roles in the workspaces. All APIs use the same workspaces and users.
--
-- On a live database: this migration only creates tables, locks nothing that is in use, and takes milliseconds. Like all
-- migrations here, it cannot be undone, because undoing it would delete users' tokens. Restore a backup, or add another migration
-- instead.
--
-- The default of created_at is clock_timestamp(). With now(), all rows that one transaction imports would have the same time.
-- The constraints check the format of the values, although the Go code also checks it. The reason is that the sidecar copies
-- the values into headers, and that a product may write the rows with its own SQL.

-- Only the owner, and the roles to which migration 00004 grants privileges, need access.
REVOKE ALL ON SCHEMA keywicket FROM PUBLIC;

CREATE TABLE keywicket.workspaces (
    id         text        NOT NULL CONSTRAINT workspaces_pkey PRIMARY KEY
                           CONSTRAINT workspaces_id_form CHECK (id ~ '^[0-9a-f]{24}$'),
    slug       text        NOT NULL CONSTRAINT workspaces_slug_key UNIQUE
                           CONSTRAINT workspaces_slug_form CHECK (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name       text        NOT NULL CONSTRAINT workspaces_name_form CHECK (name ~ '\S' AND name !~ '[[:cntrl:]]'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE keywicket.users (
    -- The user's id at the product's identity provider, in any form.
    id         text        NOT NULL CONSTRAINT users_pkey PRIMARY KEY
                           CONSTRAINT users_id_form
                           CHECK (char_length(id) BETWEEN 1 AND 255 AND id = btrim(id) AND id !~ '[[:cntrl:]]'),
    email      text        NOT NULL CONSTRAINT users_email_form CHECK (email ~ '^[^@\s[:cntrl:]]+@[^@\s[:cntrl:]]+$'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX users_email_key ON keywicket.users (lower(email));

CREATE TABLE keywicket.members (
    workspace_id text        NOT NULL REFERENCES keywicket.workspaces ON DELETE CASCADE,
    user_id      text        NOT NULL REFERENCES keywicket.users ON DELETE CASCADE,
    -- The data of the policies define which roles exist. So this constraint checks only the format.
    role         text        NOT NULL CONSTRAINT members_role_form CHECK (role ~ '^[a-z][a-z0-9_-]{0,62}$'),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT members_pkey PRIMARY KEY (workspace_id, user_id)
);
-- This index speeds up lists of a user's workspaces, and ON DELETE CASCADE from the table users.
CREATE INDEX members_user_id ON keywicket.members (user_id, workspace_id);
