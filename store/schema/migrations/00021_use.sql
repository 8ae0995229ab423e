-- +goose Up
-- The requests of each token per day, and the last use of each grant. Sidecars write both in the batches that write the last use of
-- tokens.
--
-- On a live database: this migration creates tables and replaces a function, which takes milliseconds. It waits for a running
-- upkeep, which takes at most two seconds, and the next readings of the change log wait for the migration. Older code does not
-- use the new tables. A sidecar that is newer than the database writes only the last use of tokens. It does not keep counts for later.
-- This migration cannot be undone.

-- The table has no foreign key, for the reason that migration 00011 gives: a write of usage and the deletion of a token must not
-- wait for each other. The rows of a deleted token stay until they are 400 days old.
CREATE TABLE keywicket.token_use (
    token_id text   NOT NULL,
    day      date   NOT NULL, -- in UTC
    allowed  bigint NOT NULL, -- requests with the valid token that were allowed, and that were denied
    denied   bigint NOT NULL,
    CONSTRAINT token_use_pkey PRIMARY KEY (token_id, day)
) WITH (fillfactor = 80); -- leaves space on each page for new versions of its rows, so that an update changes no index
CREATE INDEX token_use_day ON keywicket.token_use (day); -- for the deletion of old rows

CREATE TABLE keywicket.grant_usage (
    grant_id     text        NOT NULL CONSTRAINT grant_usage_pkey PRIMARY KEY,
    last_used_at timestamptz NOT NULL
) WITH (fillfactor = 70);

GRANT SELECT, INSERT, UPDATE ON keywicket.token_use, keywicket.grant_usage TO keywicket_sidecar;

ALTER TABLE keywicket.upkeep ADD COLUMN swept_grants text NOT NULL DEFAULT ''; -- the upkeep has checked the rows of grant_usage up to this grant_id

-- Compared with migration 00011, keep_up also deletes the last use of grants that no longer exist, and counts that are more than 400
-- days old.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION keywicket.keep_up() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    due_number bigint;
    due        pg_snapshot;
    usage_from text;
    usage_to   text;
    grant_from text;
    grant_to   text;
    begun      boolean;
    deleted    bigint := 0;
    most       CONSTANT bigint := 20000; -- maximum number of rows that a call deletes from the log
    next       pg_snapshot := pg_current_snapshot();
BEGIN
    SELECT number, mark, cleaning, swept, swept_grants INTO due_number, due, begun, usage_from, grant_from FROM keywicket.upkeep
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
    SELECT max(grant_id) INTO grant_to
        FROM (SELECT grant_id FROM keywicket.grant_usage WHERE grant_id > grant_from ORDER BY grant_id LIMIT 1000) AS batch;
    DELETE FROM keywicket.grant_usage gone
        WHERE grant_id > grant_from AND grant_id <= grant_to
          AND NOT EXISTS (SELECT FROM keywicket.oauth_grants g WHERE g.id = gone.grant_id);
    DELETE FROM keywicket.token_use WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM keywicket.token_use
        WHERE day < (clock_timestamp() AT TIME ZONE 'UTC')::date - 400 ORDER BY day LIMIT 10000));
    DELETE FROM keywicket.sidecars WHERE seen_at < clock_timestamp() - interval '1 hour';

    UPDATE keywicket.world SET number = due_number + 1;
    UPDATE keywicket.upkeep
        SET number = due_number + 1, mark = next, marked_at = clock_timestamp(), cleaning = false,
            bound = COALESCE((SELECT max(s.bound) FROM keywicket.sidecars s), bound), swept = COALESCE(usage_to, ''),
            swept_grants = COALESCE(grant_to, '');
END
$$;
-- +goose StatementEnd
