-- +goose Up
-- Who there is: workspaces, users, and the users' roles in the workspaces. The APIs share them.
--
-- On a live database: creates new tables only, locks nothing that is in use, and takes milliseconds. Forward only, like
-- every migration here: a step back would drop people's tokens, and is made by a restore or by a further migration.
--
-- Two choices that a reader may miss: created_at has clock_timestamp(), because now() is the transaction's start and
-- would give everything that one transaction imports the same moment; and the forms are checked here as well as in Go,
-- because these columns end up in headers, and a product may write to them with SQL of its own.

-- Only the roles of migration 00004 and the owner have any business here.
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
    -- Free text: whatever the product's identity provider calls a user.
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
    -- Which roles there are, and what each may do, is policy data, and not known here.
    role         text        NOT NULL CONSTRAINT members_role_form CHECK (role ~ '^[a-z][a-z0-9_-]{0,62}$'),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT members_pkey PRIMARY KEY (workspace_id, user_id)
);
-- "The workspaces of a user", and the cascade from users.
CREATE INDEX members_user_id ON keywicket.members (user_id, workspace_id);
