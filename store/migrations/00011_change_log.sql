-- +goose Up
-- Changes go into a log, which every sidecar reads several times a second. A notification (NOTIFY) is a hint from now on:
-- it tells a change a little earlier.
--
-- Why: Postgres wakes every listener of a database for every notification, so the nonces of N sidecars cost N * N; a
-- notification needs a connection of its own and is impossible in a transaction that is to be prepared; and a table that was
-- swapped, or changed while its triggers were disabled, was not noticed.
--
-- How the log is read. A row carries the id of the transaction that wrote it. A sidecar keeps the snapshot of its last
-- reading, and asks for the rows of the transactions that this snapshot does not see. It gets exactly the rows that became
-- visible since, in whatever order transactions commit, and none twice.
--
-- On a live database: waits for the transactions under way that have written to one of the nine tables, or have read tokens
-- or token_usage, and holds up others meanwhile. Migrate when no transaction runs for long. Sidecars of the version before
-- go on hearing the notifications, with one exception: where max_prepared_transactions is not 0, none are sent from now on,
-- so replace these sidecars first. A sidecar that is newer than the database works without its cache. Forward only.

CREATE TABLE keywicket.changes (
    xid  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- Up to 100 rows' keys of eight hexadecimal digits each (store/cache/key.go makes the same ones), or "*" for anything.
    -- "ack": sidecars confirm at once that they have read this row. "moved": a sidecar has reached another server.
    keys text NOT NULL
);
CREATE INDEX changes_xid ON keywicket.changes (xid);
-- A publication of all tables publishes the deletions of the cleaning, and the table has no key.
ALTER TABLE keywicket.changes REPLICA IDENTITY FULL;

-- One row: what the upkeep of the log and of token_usage has to remember.
CREATE TABLE keywicket.upkeep (
    one       boolean     NOT NULL DEFAULT true CONSTRAINT upkeep_pkey PRIMARY KEY CONSTRAINT upkeep_one CHECK (one),
    number    bigint      NOT NULL, -- of marks so far
    mark      pg_snapshot NOT NULL, -- the next cleaning deletes what this snapshot sees
    marked_at timestamptz NOT NULL,
    cleaning  boolean     NOT NULL, -- some of what the mark sees is deleted
    bound     interval    NOT NULL, -- the longest cache.staleness_bound of the sidecars
    swept     text        NOT NULL  -- rows of token_usage up to this token_id have been looked at
);
INSERT INTO keywicket.upkeep (number, mark, marked_at, cleaning, bound, swept)
    VALUES (1, pg_current_snapshot(), clock_timestamp(), false, '1s', '');

-- The sidecars, as of their last signs of life.
CREATE UNLOGGED TABLE keywicket.sidecars (
    id             text        NOT NULL CONSTRAINT sidecars_pkey PRIMARY KEY,
    version        text        NOT NULL,
    policies       text        NOT NULL, -- a hash of the policies that are loaded
    bound          interval    NOT NULL, -- cache.staleness_bound
    stale_if_error interval    NOT NULL, -- cache.stale_if_error
    snapshot       pg_snapshot NOT NULL, -- every change that it sees is known to the sidecar
    lease          interval    NOT NULL, -- for how long memory was trusted when the row was written
    lag            interval    NOT NULL, -- how long the last reading of the log took
    started_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at        timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50); -- room for the next version of a row on its page

-- One row, or none: what the tables, triggers and functions were when a sidecar last looked at them. One look serves all
-- sidecars. The table is UNLOGGED on purpose: a crash and a failover empty it. Another row has another id, by which every
-- sidecar knows that the server may have lost commits.
CREATE UNLOGGED TABLE keywicket.world (
    one         boolean     NOT NULL DEFAULT true CONSTRAINT world_pkey PRIMARY KEY CONSTRAINT world_one CHECK (one),
    id          uuid        NOT NULL DEFAULT gen_random_uuid(),
    number      bigint      NOT NULL, -- that of keywicket.upkeep, or an earlier one
    world       text        NOT NULL, -- as long as it stays the same, no change was made past the triggers
    told        boolean     NOT NULL, -- the triggers are in force, and write to the log
    verified_at timestamptz NOT NULL, -- every change of the schema that was committed by then was looked at
    made_at     timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 10);
-- The row has a new version several times a second. Where an old snapshot keeps the dead ones, this index finds the live one.
CREATE INDEX world_verified_at ON keywicket.world (verified_at);

-- Whoever may write to one of the tables may write to the log: its triggers run with the rights of the writer.
GRANT INSERT (keys) ON keywicket.changes TO PUBLIC;
GRANT SELECT ON keywicket.changes TO keywicket_sidecar;
GRANT SELECT (number) ON keywicket.upkeep TO keywicket_sidecar;
GRANT SELECT, INSERT, UPDATE ON keywicket.sidecars, keywicket.world TO keywicket_sidecar;

-- tell_changes is the function of every trigger. Its arguments name what a row is known by: kind and column by turns.
-- It runs with the rights of whoever writes, and nobody else may hang it on a table of their own: its arguments are SQL.
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
        -- A transaction that has notified cannot be prepared.
        IF current_setting('max_prepared_transactions') = '0' THEN
            PERFORM pg_notify('keywicket_changes', told);
        END IF;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- tell_rows_of gives a table the trigger that fires for what logical replication writes. Its apply process fires triggers for
-- rows only, and only those that are enabled for a replica. So does whoever sets session_replication_role.
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

-- Rows of the log that somebody deletes may not have been read by everybody. The upkeep says that it knows what it does.
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

-- Without its foreign key, token_usage has nothing to do with whoever deletes tokens: a write of usage locked the token, and
-- the deletion of a token locked its usage, which could deadlock.
ALTER TABLE keywicket.token_usage DROP CONSTRAINT token_usage_token_id_fkey;

-- keep_up cleans the log, a minute or more after every sidecar that is alive has read it, and deletes the usage of tokens
-- that are gone. Sidecars call it once a minute each; most calls find nothing to do. It runs with its owner's rights, so
-- that a sidecar's login cannot delete from the log by itself.
--
-- A sidecar learns the number of the last mark with each reading. The snapshot of that mark sees nothing that the reading
-- did not see. So a sidecar has missed rows only if two marks were set since its last reading.
-- +goose StatementBegin
CREATE FUNCTION keywicket.keep_up() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET keywicket.upkeep = 'on'
AS $$
DECLARE
    due_number bigint;
    due        pg_snapshot;
    usage_from text;
    usage_to   text;
    begun      boolean;
    deleted    bigint := 0;
    most       CONSTANT bigint := 20000; -- rows at a time
    next       pg_snapshot := pg_current_snapshot();
BEGIN
    SELECT number, mark, cleaning, swept INTO due_number, due, begun, usage_from FROM keywicket.upkeep
        WHERE marked_at NOT BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp()
        FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- A dump that was restored may hold marks and transactions that this server has not reached yet.
    IF pg_snapshot_xmax(due) <= pg_snapshot_xmax(next) THEN
        DELETE FROM keywicket.changes WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM keywicket.changes
            WHERE xid < pg_snapshot_xmax(due) AND pg_visible_in_snapshot(xid, due)
               OR xid >= pg_snapshot_xmax(pg_current_snapshot()) LIMIT most));
        GET DIAGNOSTICS deleted = ROW_COUNT;
    END IF;
    -- Losing this commit does no harm. Without a standby that is waited for, it would keep the row of world locked.
    PERFORM set_config('synchronous_commit', 'local', true);
    IF deleted = most THEN
        -- The next call goes on. From now on, who has seen only the mark before may have missed rows.
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
