-- +goose Up
-- Triggers write changes to a log, which every sidecar reads several times a second. A notification (NOTIFY) is now only a
-- hint: a sidecar that receives it reads the log a little earlier.
--
-- Notifications alone had these disadvantages. Postgres wakes every listener of a database for every notification, so
-- notifications by N sidecars wake N * N listeners. Listening needs its own connection. A transaction that uses NOTIFY cannot
-- be prepared for two-phase commit. Sidecars could not detect a replaced table, or a change that was made while the triggers
-- were disabled.
--
-- Reading the log: each row has the id of the transaction that wrote the row. A sidecar stores the snapshot of its last reading.
-- The next reading returns the rows of the transactions that are not visible in this snapshot. So the sidecar gets each row
-- exactly once, no matter in which order transactions commit.
--
-- On a live database: this migration waits for running transactions that have written to one of the nine tables with triggers,
-- or that have read tokens or token_usage. Until the migration ends, it blocks other such transactions. So migrate when there
-- are no long transactions. Sidecars of the previous version continue to receive notifications, with one exception: if
-- max_prepared_transactions is not 0, no notifications are sent. In that case, replace these sidecars first. A sidecar that is
-- newer than the database works without its cache. This migration cannot be undone.

CREATE TABLE keywicket.changes (
    xid  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- The keys of up to 100 changed rows. A key has eight hexadecimal digits (store/cache/key.go computes the same keys). The
    -- text "*" means that any row may have changed. The text "ack" asks sidecars to confirm immediately that they have read
    -- this row. The text "moved" means that a sidecar has reached another server.
    keys text NOT NULL
);
CREATE INDEX changes_xid ON keywicket.changes (xid);
-- If a publication for all tables exists, Postgres deletes rows only from tables with a replica identity. The table changes has
-- no key, so its replica identity is the full row.
ALTER TABLE keywicket.changes REPLICA IDENTITY FULL;

-- This table has one row: the state of the upkeep. The upkeep regularly deletes old rows of the log and of token_usage.
CREATE TABLE keywicket.upkeep (
    one       boolean     NOT NULL DEFAULT true CONSTRAINT upkeep_pkey PRIMARY KEY CONSTRAINT upkeep_one CHECK (one),
    number    bigint      NOT NULL, -- number of marks so far; see the column mark
    mark      pg_snapshot NOT NULL, -- the next cleaning deletes the rows that are visible in this snapshot
    marked_at timestamptz NOT NULL,
    cleaning  boolean     NOT NULL, -- some rows that are visible in the mark are already deleted
    bound     interval    NOT NULL, -- the longest cache.staleness_bound of all sidecars
    swept     text        NOT NULL  -- the upkeep has checked the rows of token_usage up to this token_id
);
INSERT INTO keywicket.upkeep (number, mark, marked_at, cleaning, bound, swept)
    VALUES (1, pg_current_snapshot(), clock_timestamp(), false, '1s', '');

-- The list of sidecars. A row contains the state of a sidecar at its last heartbeat.
CREATE UNLOGGED TABLE keywicket.sidecars (
    id             text        NOT NULL CONSTRAINT sidecars_pkey PRIMARY KEY,
    version        text        NOT NULL,
    policies       text        NOT NULL, -- a hash of the loaded policies
    bound          interval    NOT NULL, -- cache.staleness_bound
    stale_if_error interval    NOT NULL, -- cache.stale_if_error
    snapshot       pg_snapshot NOT NULL, -- the sidecar has read every change that is visible in this snapshot
    lease          interval    NOT NULL, -- how long the sidecar could still use its cache when it wrote this row
    lag            interval    NOT NULL, -- how long the last reading of the log took
    started_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at        timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50); -- space for the next version of a row on its page

-- This table has at most one row, which all sidecars share: the state ("world") of the server, tables, triggers and functions
-- when a sidecar last verified them. The table is UNLOGGED so that a crash and a failover empty it. The row is then created
-- again with a new id. From the new id, every sidecar learns that the server may have lost commits.
CREATE UNLOGGED TABLE keywicket.world (
    one         boolean     NOT NULL DEFAULT true CONSTRAINT world_pkey PRIMARY KEY CONSTRAINT world_one CHECK (one),
    id          uuid        NOT NULL DEFAULT gen_random_uuid(),
    number      bigint      NOT NULL, -- the current or an earlier value of keywicket.upkeep.number
    world       text        NOT NULL, -- a fingerprint: while it stays the same, no change has bypassed the triggers
    told        boolean     NOT NULL, -- true: the log gets every change, because the triggers are enabled and nothing drops rows of the log
    verified_at timestamptz NOT NULL, -- the fingerprint includes every schema change that was committed by this time
    made_at     timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 10);
-- The row gets a new version several times a second. If an old snapshot keeps the dead versions, this index finds the live version
-- quickly.
CREATE INDEX world_verified_at ON keywicket.world (verified_at);

-- The triggers run with the privileges of the role that writes the row. So every role with the privilege to write to one of the
-- tables must also have the privilege to insert rows into the log.
GRANT INSERT (keys) ON keywicket.changes TO PUBLIC;
GRANT SELECT ON keywicket.changes TO keywicket_sidecar;
GRANT SELECT (number) ON keywicket.upkeep TO keywicket_sidecar;
GRANT SELECT, INSERT, UPDATE ON keywicket.sidecars, keywicket.world TO keywicket_sidecar;

-- tell_changes is the function of all triggers. Its arguments are pairs: the kind of a key, and an SQL expression that computes
-- the key's name from a row. The function runs with the privileges of the role that writes the row. Other roles have no
-- permission to create triggers with this function, because its arguments are SQL.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION keywicket.tell_changes() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    most CONSTANT integer := 100;
    sources text;
    many    boolean := TG_OP = 'TRUNCATE';
    columns text;
    told    text;
    written bigint;
BEGIN
    IF TG_LEVEL = 'STATEMENT' AND NOT many THEN
        sources := CASE TG_OP
            WHEN 'INSERT' THEN 'SELECT * FROM new_rows'
            WHEN 'DELETE' THEN 'SELECT * FROM old_rows'
            ELSE 'SELECT * FROM old_rows UNION ALL SELECT * FROM new_rows' END;
        EXECUTE format('SELECT EXISTS (SELECT FROM (%s) changed OFFSET %s)', sources, most) INTO many;
    ELSIF TG_LEVEL = 'ROW' THEN
        sources := CASE TG_OP
            WHEN 'INSERT' THEN 'SELECT ($2).*'
            WHEN 'DELETE' THEN 'SELECT ($1).*'
            ELSE 'SELECT ($1).* UNION ALL SELECT ($2).*' END;
    END IF;
    IF many THEN
        told := '*';
    ELSE
        SELECT string_agg(format('keywicket.change_key(%L, %s)', TG_ARGV[i], TG_ARGV[i + 1]), ', ')
            INTO columns FROM generate_series(0, TG_NARGS - 2, 2) AS i;
        columns := format('SELECT string_agg(DISTINCT key, '' '') FROM (%s) changed, unnest(ARRAY[%s]) AS key', sources, columns);
        IF TG_LEVEL = 'ROW' THEN
            EXECUTE columns INTO told USING OLD, NEW;
        ELSE
            EXECUTE columns INTO told;
        END IF;
    END IF;
    IF told IS NOT NULL THEN
        INSERT INTO keywicket.changes (keys) VALUES (told);
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> 1 THEN
            RAISE 'a trigger or a rule on keywicket.changes drops rows, so sidecars would miss this change: remove it';
        END IF;
        -- PREPARE TRANSACTION fails if the transaction has used NOTIFY.
        IF current_setting('max_prepared_transactions') = '0' THEN
            PERFORM pg_notify('keywicket_changes', told);
        END IF;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- tell_rows_of creates a row trigger on a table, for changes by logical replication. Logical replication fires only row triggers
-- that are enabled for replicas. Such a trigger also fires in a session with session_replication_role = replica.
-- +goose StatementBegin
CREATE PROCEDURE keywicket.tell_rows_of(name text, keys text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER tell_row AFTER INSERT OR UPDATE OR DELETE ON keywicket.%I
        FOR EACH ROW EXECUTE FUNCTION keywicket.tell_changes(%s)', name, keys);
    EXECUTE format('ALTER TABLE keywicket.%I ENABLE REPLICA TRIGGER tell_row', name);
END
$$;
-- +goose StatementEnd

REVOKE ALL ON PROCEDURE keywicket.tell_rows_of(text, text) FROM PUBLIC;

CALL keywicket.tell_rows_of('tokens', $k$'token', 'encode(digest, ''hex'')'$k$);
CALL keywicket.tell_rows_of('workspaces', $k$'workspace', 'id', 'slug', 'slug'$k$);
CALL keywicket.tell_rows_of('users', $k$'user', 'id'$k$);
CALL keywicket.tell_rows_of('members', $k$'user', 'user_id'$k$);
CALL keywicket.tell_rows_of('revoked_sessions', $k$'session', 'session_id', 'user', 'user_id'$k$);
CALL keywicket.tell_rows_of('oauth_access_tokens', $k$'token', 'encode(digest, ''hex'')'$k$);
CALL keywicket.tell_rows_of('oauth_grants', $k$'grant', 'id'$k$);
CALL keywicket.tell_rows_of('oauth_grant_workspaces', $k$'grant', 'grant_id'$k$);
CALL keywicket.tell_rows_of('oauth_apps', $k$'app', 'id'$k$);

-- If rows of the log are deleted, some sidecars may not have read these rows, so this trigger writes "*" to the log. If keep_up
-- deletes the rows, the trigger writes nothing: keep_up sets the configuration parameter keywicket.upkeep to "on". This
-- parameter is not the table keywicket.upkeep.
-- +goose StatementBegin
CREATE FUNCTION keywicket.tell_deleted_changes() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('keywicket.upkeep', true) IS DISTINCT FROM 'on' THEN
        INSERT INTO keywicket.changes (keys) VALUES ('*');
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION keywicket.tell_deleted_changes() FROM PUBLIC;
CREATE TRIGGER tell_delete AFTER DELETE OR UPDATE ON keywicket.changes
    FOR EACH STATEMENT EXECUTE FUNCTION keywicket.tell_deleted_changes();
ALTER TABLE keywicket.changes ENABLE ALWAYS TRIGGER tell_delete;

-- Because of this foreign key, a write of usage locked the token, and a deletion of a token locked its usage, so the two
-- statements could deadlock. Without the foreign key, the two statements cannot deadlock.
ALTER TABLE keywicket.token_usage DROP CONSTRAINT token_usage_token_id_fkey;

-- keep_up does the upkeep. It deletes the rows of the log that are visible in the last mark, a snapshot that is at least a
-- minute old. It also deletes the usage of tokens that no longer exist, and the rows of sidecars that sent no heartbeat for an
-- hour. Each sidecar calls keep_up once a minute, and most calls do nothing. The function runs with its owner's privileges, so
-- that a sidecar's login needs no privilege to delete rows of the log.
--
-- Each reading of the log returns the number of the last mark. All rows that are visible in this mark were also visible to the
-- reading. So a sidecar can have missed rows only if two marks were set since its last reading.
-- +goose StatementBegin
CREATE FUNCTION keywicket.keep_up() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    due_number bigint;
    due        pg_snapshot;
    usage_from text;
    usage_to   text;
    begun      boolean;
    deleted    bigint := 0;
    most       CONSTANT bigint := 20000; -- maximum number of rows that a call deletes from the log
    next       pg_snapshot := pg_current_snapshot();
BEGIN
    SELECT number, mark, cleaning, swept INTO due_number, due, begun, usage_from FROM keywicket.upkeep
        WHERE marked_at NOT BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp()
        FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- A restored dump may contain marks and transaction ids that this server has not reached yet.
    IF pg_snapshot_xmax(due) <= pg_snapshot_xmax(next) THEN
        -- Only a superuser may create a function with SET for a parameter that Postgres does not know.
        PERFORM set_config('keywicket.upkeep', 'on', true);
        DELETE FROM keywicket.changes WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM keywicket.changes
            WHERE xid < pg_snapshot_xmax(due) AND pg_visible_in_snapshot(xid, due)
               OR xid >= pg_snapshot_xmax(pg_current_snapshot()) LIMIT most));
        GET DIAGNOSTICS deleted = ROW_COUNT;
        PERFORM set_config('keywicket.upkeep', '', true);
    END IF;
    -- Do not wait for a synchronous standby: while it is missing, the row of world would stay locked. The loss of this commit
    -- would do no harm.
    PERFORM set_config('synchronous_commit', 'local', true);
    IF deleted = most THEN
        -- The next call continues. From now on, a sidecar that has read only the previous mark may have missed rows.
        IF NOT begun THEN
            UPDATE keywicket.world SET number = due_number + 1;
            UPDATE keywicket.upkeep SET number = due_number + 1, cleaning = true;
        END IF;
        RETURN;
    END IF;

    SELECT max(token_id) INTO usage_to
        FROM (SELECT token_id FROM keywicket.token_usage WHERE token_id > usage_from ORDER BY token_id LIMIT 1000) AS batch;
    DELETE FROM keywicket.token_usage gone
        WHERE token_id > usage_from AND token_id <= usage_to
          AND NOT EXISTS (SELECT FROM keywicket.tokens t WHERE t.id = gone.token_id);
    DELETE FROM keywicket.sidecars WHERE seen_at < clock_timestamp() - interval '1 hour';

    UPDATE keywicket.world SET number = due_number + 1;
    UPDATE keywicket.upkeep
        SET number = due_number + 1, mark = next, marked_at = clock_timestamp(), cleaning = false,
            bound = COALESCE((SELECT max(s.bound) FROM keywicket.sidecars s), bound), swept = COALESCE(usage_to, '');
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION keywicket.keep_up() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keywicket.keep_up() TO keywicket_sidecar;
