-- +goose Up
-- The roles of the two processes. Grant one to the login that a process uses:
--     GRANT keywicket_sidecar TO my_sidecar_login;
--
-- On a live database: takes milliseconds, and locks nothing that is in use. Forward only.
--
-- Roles belong to the whole cluster, and another database of the cluster may be migrating at the same time. So it is no error if
-- a role already exists. If this login may not create roles, an administrator has to create the two first. The grants are in the
-- next migration, because this transaction does not see a role that another one has just created.

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
