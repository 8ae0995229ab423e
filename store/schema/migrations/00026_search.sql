-- +goose NO TRANSACTION
-- +goose Up
-- The indexes of the console's lists and search. The collation C sorts by bytes. Only then can LIKE 'p%' and ORDER BY use the same
-- index, in databases of every collation.
--
-- On a live database, reads and writes continue, because each index is built with CONCURRENTLY. That takes some seconds for a million
-- tokens. It first waits for the end of all transactions of this database that are open at that time, for example of pg_dump. So
-- this migration cannot run in a transaction. If it is interrupted, some indexes exist, and one may be invalid: an invalid index
-- costs writes, and no query uses it. Repeat `migrate up`, which drops and builds them again. If the login has a
-- statement_timeout, it must be long enough for each index.
--
-- Three indexes replace older ones. Code of the previous version works as before, but `token list --prefix` reads the whole table.
-- This migration cannot be undone.

-- The newest tokens of a workspace or a user, also if an import gave all of them the same time. They also speed up ON DELETE CASCADE.
DROP INDEX CONCURRENTLY IF EXISTS keywicket.tokens_workspace_newest;
CREATE INDEX CONCURRENTLY tokens_workspace_newest ON keywicket.tokens (workspace_id, created_at, id) WHERE workspace_id IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS keywicket.tokens_user_newest;
CREATE INDEX CONCURRENTLY tokens_user_newest ON keywicket.tokens (user_id, created_at, id) WHERE user_id IS NOT NULL;

-- A name can be longer than an entry of an index.
DROP INDEX CONCURRENTLY IF EXISTS keywicket.tokens_workspace_name;
CREATE INDEX CONCURRENTLY tokens_workspace_name
    ON keywicket.tokens (workspace_id, (lower("left"(name, 64)) COLLATE "C"), id) WHERE workspace_id IS NOT NULL;

-- The operator searches the prefixes of all workspaces. So the prefix comes first.
DROP INDEX CONCURRENTLY IF EXISTS keywicket.tokens_prefix;
CREATE INDEX CONCURRENTLY tokens_prefix ON keywicket.tokens (visible_prefix COLLATE "C", workspace_id, id);

-- Revoked tokens, and tokens with an expiry, can be few among many.
DROP INDEX CONCURRENTLY IF EXISTS keywicket.tokens_workspace_revoked;
CREATE INDEX CONCURRENTLY tokens_workspace_revoked
    ON keywicket.tokens (workspace_id, created_at, id) WHERE workspace_id IS NOT NULL AND revoked_at IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS keywicket.tokens_workspace_expiry;
CREATE INDEX CONCURRENTLY tokens_workspace_expiry
    ON keywicket.tokens (workspace_id, expires_at, id) WHERE workspace_id IS NOT NULL AND revoked_at IS NULL AND expires_at IS NOT NULL;

DROP INDEX CONCURRENTLY IF EXISTS keywicket.tokens_workspace_id;
DROP INDEX CONCURRENTLY IF EXISTS keywicket.tokens_user_id;
DROP INDEX CONCURRENTLY IF EXISTS keywicket.tokens_visible_prefix;
