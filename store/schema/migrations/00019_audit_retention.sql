-- +goose Up
-- The only way to delete rows of the audit log, for the role keywicket_retention. Migration 00018 created the role. Another
-- transaction may have created it at the same time, and then it was invisible to that migration. The role keywicket_operator reads
-- the audit log, and writes the new column of an import.
--
-- On a live database: this migration takes milliseconds, and locks nothing that is in use. This migration cannot be undone.

GRANT USAGE ON SCHEMA keywicket TO keywicket_retention;
GRANT SELECT ON keywicket.migrations TO keywicket_retention; -- every command compares the schema with its own version

-- expire_audit_log deletes the rows that are older than the interval, and returns their number. The audit log gets a row about
-- this deletion. The function refuses an interval of less than a day, so that nobody can remove the traces of a recent change.
-- +goose StatementBegin
CREATE FUNCTION keywicket.expire_audit_log(older_than interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    expired bigint;
BEGIN
    IF older_than IS NULL OR older_than < interval '1 day' THEN
        RAISE 'the audit log keeps its rows for at least one day: give a longer interval';
    END IF;
    DELETE FROM keywicket.audit_log WHERE at < clock_timestamp() - older_than;
    GET DIAGNOSTICS expired = ROW_COUNT;
    IF expired > 0 THEN
        INSERT INTO keywicket.audit_log (action, object_kind, objects, after)
            VALUES ('expire', 'audit_log', expired, jsonb_build_object('older_than', older_than));
    END IF;
    RETURN expired;
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION keywicket.expire_audit_log(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keywicket.expire_audit_log(interval) TO keywicket_retention;

GRANT SELECT ON keywicket.audit_log TO keywicket_operator;
GRANT INSERT (import_id) ON keywicket.tokens TO keywicket_operator;
