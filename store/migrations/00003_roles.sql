-- +goose Up
-- The roles of the two processes. Grant one to the login that a process uses:
--     GRANT keywicket_sidecar TO my_sidecar_login;
--
-- On a live database: takes milliseconds, and locks nothing that is in use. Forward only.
--
-- Roles belong to the whole cluster, and another database of it may be migrating at this moment; creating a role that
-- exists by now is therefore no error. Without the right to create roles, have an administrator create the two first.
-- The grants are the next migration, because the transaction that has just met such a role does not see it yet.

-- +goose StatementBegin
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['keywicket_sidecar', 'keywicket_issuer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;
-- +goose StatementEnd
