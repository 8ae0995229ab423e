-- +goose Up
-- The role of the console. Grant it to a login of your own:
--     GRANT keywicket_console TO my_console_login;
--
-- On a live database: this migration takes milliseconds, and locks nothing that is in use. Code of every version works as before.
-- This migration cannot be undone.
--
-- Roles belong to the whole cluster, so the same rules apply as in migration 00003. The next migration grants the privileges. If
-- the login has no permission to create roles, the error names the statement that an administrator has to run first.

-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'keywicket_console') THEN
        CREATE ROLE keywicket_console NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;
    WHEN insufficient_privilege THEN
        RAISE 'the login % has no permission to create a role: let an administrator run CREATE ROLE keywicket_console NOLOGIN, then migrate again',
            current_user;
END
$$;
-- +goose StatementEnd
