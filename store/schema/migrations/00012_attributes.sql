-- +goose Up
-- Attributes: data about a token, a workspace or a user that the product's policies read, such as a plan or a region. Each row has
-- one JSON object. The product defines its names and values.
--
-- The size is limited because a sidecar reads the attributes with each look-up and keeps them in memory. octet_length measures the
-- text that a look-up reads: Postgres writes a jsonb with a space after each comma and colon.
--
-- The constraints are NOT VALID, so that Postgres does not scan the tables while they are locked; 00013 does that later. They
-- already apply to every row: existing rows get the default, and each insert and update is checked.
--
-- The issuer may read the attributes of workspaces and users, because its grants in 00004 are for whole tables.
--
-- On a live database: a new column with a constant default does not rewrite the table, so this takes milliseconds once it has the
-- exclusive locks of the three tables. It waits for the transactions that use them, and new queries wait behind it. Migrate when no
-- transaction runs for long. It locks the tables in the same order as look-ups. A concurrent token import locks them in another
-- order, so one of the two may fail with a deadlock. It has then changed nothing and can be repeated. The triggers of 00006 and
-- 00011 also report changes of the new columns. Older code does not read the columns. Code that is newer than the database uses {}
-- for all attributes. Forward only.

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
