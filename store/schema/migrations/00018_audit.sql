-- +goose Up
-- The audit log: a record of who changed what. Triggers write it in the transaction of the change. So a change that is rolled back
-- leaves no row, and a change by hand with SQL leaves one.
--
-- A row describes the change of one object, with one exception: the tokens of an import share one row. The column import_id of
-- these tokens contains the object_id of that row. No row contains a credential, or the digest of a credential.
--
-- The column login has the login that Postgres authenticated. A program that acts for somebody else names this actor in its
-- transaction, as a JSON object. All keys are optional:
--
--     SET LOCAL keywicket.actor = '{"kind": "user", "id": "…", "source": "203.0.113.9", "request_id": "…"}';
--
-- Postgres does not verify the actor, so the actor is only as trustworthy as the login.
--
-- keywicket's roles cannot change or delete rows. Only the role keywicket_retention can delete old rows, with the function
-- expire_audit_log. The triggers do not fire for changes that logical replication applies, because the other server has recorded
-- these changes.
--
-- On a live database: this migration waits for running transactions that use tokens, or that have written to one of the eight
-- tables with triggers. Until the migration ends, it blocks such transactions. So migrate when there are no long transactions.
-- Code of the previous version works with the new schema, and its changes are recorded. If the login has no permission to create
-- roles, the error names the statement that an administrator has to run first. This migration cannot be undone.

CREATE TABLE keywicket.audit_log (
    id           bigint      GENERATED ALWAYS AS IDENTITY CONSTRAINT audit_log_pkey PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    login        text        NOT NULL DEFAULT session_user,
    actor_kind   text,       -- NULL: the login acted for nobody else
    actor_id     text,
    action       text        NOT NULL, -- create, change, revoke, restore, rotate, delete, import, truncate, expire
    object_kind  text        NOT NULL, -- token, workspace, user, member, session, app, grant, grant_workspace, audit_log
    object_id    text,       -- NULL: several objects
    object_name  text,
    api          text,
    workspace_id text,       -- the workspace and the user that the object belongs to
    user_id      text,
    objects      bigint      NOT NULL DEFAULT 1, -- the number of changed objects, if known
    before       jsonb,      -- a deleted object, or the values that a change replaced
    after        jsonb,      -- a new object, or the values that a change wrote
    source       text,       -- the client's address
    request_id   text
);
CREATE INDEX audit_log_at ON keywicket.audit_log (at);
CREATE INDEX audit_log_object_id ON keywicket.audit_log (object_id, id);
CREATE INDEX audit_log_workspace_id ON keywicket.audit_log (workspace_id, id) WHERE workspace_id IS NOT NULL;
CREATE INDEX audit_log_user_id ON keywicket.audit_log (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX audit_log_actor_id ON keywicket.audit_log (actor_id, id) WHERE actor_id IS NOT NULL;

ALTER TABLE keywicket.tokens ADD COLUMN import_id text;

-- audit is the function of all triggers. Its arguments are the kind of the object, and the columns of the object's id. It runs
-- with the privileges of its owner, because other roles cannot write the audit log.
-- +goose StatementBegin
CREATE FUNCTION keywicket.audit() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor   CONSTANT jsonb := NULLIF(current_setting('keywicket.actor', true), '');
    key     text;
    changed text;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO keywicket.audit_log (actor_kind, actor_id, action, object_kind, objects, source, request_id)
            VALUES (actor->>'kind', actor->>'id', 'truncate', TG_ARGV[0], 0, actor->>'source', actor->>'request_id');
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' AND TG_ARGV[0] = 'token' THEN
        EXECUTE $q$
            INSERT INTO keywicket.audit_log (actor_kind, actor_id, action, object_kind, object_id, api, workspace_id, user_id,
                objects, after, source, request_id)
            SELECT $1->>'kind', $1->>'id', 'import', 'token', import_id, min(api),
                CASE WHEN count(DISTINCT workspace_id) = 1 THEN min(workspace_id) END,
                CASE WHEN count(DISTINCT user_id) = 1 THEN min(user_id) END,
                count(*), jsonb_build_object('kind', min(kind)), $1->>'source', $1->>'request_id'
            FROM new_rows WHERE import_id IS NOT NULL GROUP BY import_id$q$ USING actor;
    END IF;
    SELECT string_agg(format('row.%I::text', name), ' || ''/'' || ') INTO key FROM unnest(TG_ARGV[1:]) AS name;
    changed := CASE TG_OP
        WHEN 'INSERT' THEN format('SELECT %s AS id, NULL::jsonb AS old, to_jsonb(row) AS new FROM new_rows AS row', key) ||
            CASE TG_ARGV[0] WHEN 'token' THEN ' WHERE import_id IS NULL' ELSE '' END
        WHEN 'DELETE' THEN format('SELECT %s AS id, to_jsonb(row) AS old, NULL::jsonb AS new FROM old_rows AS row', key)
        ELSE format('SELECT * FROM (SELECT %1$s AS id, to_jsonb(row) AS old FROM old_rows AS row) AS o
            FULL JOIN (SELECT %1$s AS id, to_jsonb(row) AS new FROM new_rows AS row) AS n USING (id) WHERE old IS DISTINCT FROM new', key)
        END;
    EXECUTE format($q$
        INSERT INTO keywicket.audit_log (actor_kind, actor_id, action, object_kind, object_id, object_name, api, workspace_id,
            user_id, before, after, source, request_id)
        SELECT $1->>'kind', $1->>'id',
            CASE
                WHEN old IS NULL AND $2 = 'session' THEN 'revoke'
                WHEN old IS NULL THEN 'create'
                WHEN new IS NULL THEN 'delete'
                WHEN old->>'revoked_at' IS NULL AND new->>'revoked_at' IS NOT NULL THEN 'revoke'
                WHEN old->>'revoked_at' IS NOT NULL AND new->>'revoked_at' IS NULL THEN 'restore'
                WHEN old->'digest' <> new->'digest' OR old->'secret_digest' <> new->'secret_digest' THEN 'rotate'
                ELSE 'change'
            END,
            $2, id, COALESCE(any_row->>'name', any_row->>'email'), any_row->>'api',
            CASE $2 WHEN 'workspace' THEN id ELSE any_row->>'workspace_id' END,
            CASE $2 WHEN 'user' THEN id ELSE any_row->>'user_id' END,
            (old - secrets) - unchanged, (new - secrets) - unchanged, $1->>'source', $1->>'request_id'
        FROM (%s) AS changed,
            LATERAL (SELECT COALESCE(new, old) AS any_row, '{digest,secret_digest}'::text[] AS secrets, ARRAY(
                SELECT name FROM jsonb_each(old) AS field (name, value) WHERE value = new->name) AS unchanged) AS more
        ORDER BY id$q$, changed) USING actor, TG_ARGV[0];
    RETURN NULL;
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION keywicket.audit() FROM PUBLIC;

-- +goose StatementBegin
DO $$
DECLARE
    audited CONSTANT text[] := '{
        {tokens, "''token'', ''id''"}, {workspaces, "''workspace'', ''id''"}, {users, "''user'', ''id''"},
        {members, "''member'', ''workspace_id'', ''user_id''"}, {revoked_sessions, "''session'', ''id''"},
        {oauth_apps, "''app'', ''id''"}, {oauth_grants, "''grant'', ''id''"},
        {oauth_grant_workspaces, "''grant_workspace'', ''grant_id'', ''workspace_id''"}}';
    of text[];
BEGIN
    FOREACH of SLICE 1 IN ARRAY audited LOOP
        EXECUTE format('CREATE TRIGGER audit_insert AFTER INSERT ON keywicket.%I
            REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION keywicket.audit(%s)', of[1], of[2]);
        EXECUTE format('CREATE TRIGGER audit_update AFTER UPDATE ON keywicket.%I
            REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
            FOR EACH STATEMENT EXECUTE FUNCTION keywicket.audit(%s)', of[1], of[2]);
        EXECUTE format('CREATE TRIGGER audit_delete AFTER DELETE ON keywicket.%I
            REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION keywicket.audit(%s)', of[1], of[2]);
        EXECUTE format('CREATE TRIGGER audit_truncate AFTER TRUNCATE ON keywicket.%I
            FOR EACH STATEMENT EXECUTE FUNCTION keywicket.audit(%s)', of[1], of[2]);
        EXECUTE format('ALTER TABLE keywicket.%I
            ENABLE ALWAYS TRIGGER audit_insert, ENABLE ALWAYS TRIGGER audit_update,
            ENABLE ALWAYS TRIGGER audit_delete, ENABLE ALWAYS TRIGGER audit_truncate', of[1]);
    END LOOP;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'keywicket_retention') THEN
        CREATE ROLE keywicket_retention NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;
    WHEN insufficient_privilege THEN
        RAISE 'the login % has no permission to create a role: let an administrator run CREATE ROLE keywicket_retention NOLOGIN, then migrate again',
            current_user;
END
$$;
-- +goose StatementEnd
