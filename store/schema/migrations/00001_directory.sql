-- +goose Up
-- Workspaces, users, and the users' roles in the workspaces. All APIs share them.
--
-- On a live database: creates new tables only, locks nothing that is in use, and takes milliseconds. Forward only, like all
-- migrations here: undoing one would drop users' tokens. Restore a backup or add another migration instead.
--
-- created_at defaults to clock_timestamp(), because now() would give all rows that one transaction imports the same time. The
-- forms are checked here and in Go: these columns end up in headers, and a product may write to them with its own SQL.

-- Only the owner and the roles of migration 00004 need access.
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
    -- Free text: the id of the product's identity provider.
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
    -- The roles and their rights are defined by policy data, so only the form is checked.
    role         text        NOT NULL CONSTRAINT members_role_form CHECK (role ~ '^[a-z][a-z0-9_-]{0,62}$'),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT members_pkey PRIMARY KEY (workspace_id, user_id)
);
-- For listing a user's workspaces, and for the cascade from users.
CREATE INDEX members_user_id ON keywicket.members (user_id, workspace_id);
