-- +goose Up
-- Attributes are data about a token, a workspace or a user, such as a plan or a region. The product's policies read them. Each
-- row has one JSON object. The product defines the names and values in this object.
--
-- The size is limited because a sidecar reads the attributes with each look-up and keeps them in memory. octet_length measures the
-- text that a look-up reads: Postgres writes a jsonb with a space after each comma and colon.
--
-- The constraints are NOT VALID, so that Postgres does not check all rows while the tables are locked. Migration 00013 checks
-- the rows later. Nevertheless, every row satisfies the constraints: existing rows get the default, and each insert and update
-- is checked.
--
-- The issuer may read the attributes of workspaces and users, because its privileges from migration 00004 are for whole tables.
--
-- On a live database: this migration takes milliseconds after it gets the exclusive locks of the three tables. A new column
-- with a constant default does not rewrite the table. Before this migration gets the locks, it waits for the transactions that
-- use the tables, and new queries wait for the migration. So migrate when there are no long transactions. This migration locks
-- the tables in the same order as look-ups. A concurrent token import locks the tables in another order, so the migration or
-- the import may fail with a deadlock. If one fails, it has changed nothing, and can be repeated. The triggers of migrations
-- 00006 and 00011 also report changes of the new columns. Older code does not read the columns. Code that is newer than the
-- database uses {} for all attributes. This migration cannot be undone.

LOCK TABLE keywicket.tokens, keywicket.users, keywicket.workspaces IN ACCESS EXCLUSIVE MODE;

ALTER TABLE keywicket.tokens
    ADD COLUMN attributes jsonb NOT NULL DEFAULT '{}',
    ADD CONSTRAINT tokens_attributes_form
        CHECK (jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 4096) NOT VALID;

ALTER TABLE keywicket.users
    ADD COLUMN attributes jsonb NOT NULL DEFAULT '{}',
    ADD CONSTRAINT users_attributes_form
        CHECK (jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 4096) NOT VALID;

ALTER TABLE keywicket.workspaces
    ADD COLUMN attributes jsonb NOT NULL DEFAULT '{}',
    ADD CONSTRAINT workspaces_attributes_form
        CHECK (jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 4096) NOT VALID;

GRANT SELECT (attributes) ON keywicket.tokens, keywicket.users, keywicket.workspaces TO keywicket_sidecar;
