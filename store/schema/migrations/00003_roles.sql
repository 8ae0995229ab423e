-- +goose Up
-- The roles of the two processes, sidecar and issuer. Grant the role of a process to the login that the process uses:
--     GRANT keywicket_sidecar TO my_sidecar_login;
--
-- On a live database: this migration takes milliseconds, and locks nothing that is in use. It cannot be undone.
--
-- Roles belong to the whole cluster, and another database of the cluster may run this migration at the same time. So it is not
-- an error if a role already exists. If the login that runs this migration has no permission to create roles, the error names the
-- statement that an administrator has to run first. The next migration grants the privileges. A role that another transaction has
-- just created can be invisible to the transaction of this migration.

-- +goose StatementBegin
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['keywicket_sidecar', 'keywicket_issuer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN
                    NULL;
                WHEN insufficient_privilege THEN
                    RAISE 'the login % has no permission to create a role: let an administrator run CREATE ROLE % NOLOGIN, then migrate again',
                        current_user, name;
            END;
        END IF;
    END LOOP;
END
$$;
-- +goose StatementEnd
