-- +goose Up
-- Attributes: what a product wants its policies to know about a token, a workspace or a user, such as a plan or a region. Each
-- row has one JSON object, and which names and values it holds is the product's business.
--
-- The size is bounded because a sidecar reads the attributes with each look-up and keeps them in memory. octet_length counts
-- what a look-up reads: the text that Postgres makes of a jsonb, which has a blank behind each comma and colon.
--
-- The constraints are NOT VALID, so that Postgres does not scan the tables while they are locked; 00013 does it afterwards. They
-- hold for every row from now on: the rows that are there get the default, and each insert and update is checked.
--
-- The issuer may read the attributes of workspaces and users, because its grants in 00004 are of whole tables.
--
-- On a live database: a new column with a constant default does not rewrite the table, so this takes milliseconds once it has
-- the exclusive locks of the three tables. It waits for the transactions that use them, and new queries wait behind it, so
-- migrate when none runs for long. It locks the tables in the order in which look-ups do. A token import that runs at the same
-- time locks them in another order, so one of the two may end with a deadlock; it then did nothing, and can be repeated. The triggers of 00006 and 00011 tell
-- changes of the new columns, as of every column. Code that is older does not read the columns. Code that is newer than the
-- database takes all attributes for {}. Forward only.

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
