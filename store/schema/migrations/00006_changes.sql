-- +goose Up
-- Triggers send a notification (NOTIFY) for every change of data that look-ups read, on the channel keywicket_changes. So sidecars
-- stop using older data, no matter which program makes the change.
--
-- A notification identifies up to 100 changed rows, each by one or more change keys. A change key is a hash with eight hexadecimal
-- digits (store/cache/key.go computes the same keys). "*" means that anything may have changed. A notification does not reveal
-- whose data has changed.
--
-- The triggers are ENABLE ALWAYS, so they also fire in a session with session_replication_role = replica. They fire once per
-- statement, so a change of a million rows causes one notification. (Logical replication into these tables fires no statement
-- triggers; for changes by replication, only cache.max_age limits the use of older data.) Postgres sends notifications when
-- their transaction commits, in the order of commits.
--
-- On a live database: this migration waits for running transactions that have written to tokens, workspaces, users or members.
-- Until the migration ends, it blocks other writers of these tables. So migrate when there are no long transactions. Look-ups
-- continue. Code that does not listen works as before. This migration cannot be undone.

-- +goose StatementBegin
CREATE FUNCTION keywicket.change_key(kind text, name text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN encode(substr(sha256(convert_to(kind || ':' || name, 'UTF8')), 1, 4), 'hex');
-- +goose StatementEnd

-- tell_changes is the function of all triggers. Its arguments are pairs: the kind of a key, and an SQL expression that computes
-- the key's name from a row. The function runs with the privileges of the role that writes the row. Other roles have no
-- permission to create triggers with this function, because its arguments are SQL.
-- +goose StatementBegin
CREATE FUNCTION keywicket.tell_changes() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    most CONSTANT integer := 100;
    notice        text;
    sources       text;
    many          boolean;
    keys          text;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('keywicket_changes', '*');
        RETURN NULL;
    END IF;
    sources := CASE TG_OP
        WHEN 'INSERT' THEN 'SELECT * FROM new_rows'
        WHEN 'DELETE' THEN 'SELECT * FROM old_rows'
        ELSE 'SELECT * FROM old_rows UNION ALL SELECT * FROM new_rows' END;
    EXECUTE format('SELECT EXISTS (SELECT FROM (%s) changed OFFSET %s)', sources, most) INTO many;
    IF many THEN
        PERFORM pg_notify('keywicket_changes', '*');
        RETURN NULL;
    END IF;
    SELECT string_agg(format('keywicket.change_key(%L, %s)', TG_ARGV[i], TG_ARGV[i + 1]), ', ')
        INTO keys FROM generate_series(0, TG_NARGS - 2, 2) AS i;
    EXECUTE format('SELECT string_agg(DISTINCT key, '' '') FROM (%s) changed, unnest(ARRAY[%s]) AS key', sources, keys)
        INTO notice;
    IF notice IS NOT NULL THEN
        PERFORM pg_notify('keywicket_changes', notice);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION keywicket.tell_changes() FROM PUBLIC;

-- tell_changes_of creates the four triggers of a table. The parameter keys contains the arguments of tell_changes, as SQL.
-- +goose StatementBegin
CREATE PROCEDURE keywicket.tell_changes_of(name text, keys text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER tell_insert AFTER INSERT ON keywicket.%I
        REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION keywicket.tell_changes(%s)', name, keys);
    EXECUTE format('CREATE TRIGGER tell_update AFTER UPDATE ON keywicket.%I
        REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION keywicket.tell_changes(%s)', name, keys);
    EXECUTE format('CREATE TRIGGER tell_delete AFTER DELETE ON keywicket.%I
        REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION keywicket.tell_changes(%s)', name, keys);
    EXECUTE format('CREATE TRIGGER tell_truncate AFTER TRUNCATE ON keywicket.%I
        FOR EACH STATEMENT EXECUTE FUNCTION keywicket.tell_changes(%s)', name, keys);
    EXECUTE format('ALTER TABLE keywicket.%I
        ENABLE ALWAYS TRIGGER tell_insert, ENABLE ALWAYS TRIGGER tell_update,
        ENABLE ALWAYS TRIGGER tell_delete, ENABLE ALWAYS TRIGGER tell_truncate', name);
END
$$;
-- +goose StatementEnd

REVOKE ALL ON PROCEDURE keywicket.tell_changes_of(text, text) FROM PUBLIC;

CALL keywicket.tell_changes_of('tokens', $k$'token', 'encode(digest, ''hex'')'$k$);
CALL keywicket.tell_changes_of('workspaces', $k$'workspace', 'id', 'slug', 'slug'$k$);
CALL keywicket.tell_changes_of('users', $k$'user', 'id'$k$);
CALL keywicket.tell_changes_of('members', $k$'user', 'user_id'$k$);
