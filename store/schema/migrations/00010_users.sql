-- +goose Up
-- Data of the product's identity provider that decisions need: until when a user is banned, and whether they have a second factor.
-- docs/configuration.md has the triggers that copy both from Supabase's tables.
--
-- While a user is banned, none of their credentials is valid: keys, OAuth 2.0 access tokens and sessions.
--
-- On a live database: takes milliseconds once it has the table's exclusive lock. It waits for the transactions that use the table,
-- and new queries wait behind it. Migrate when no transaction runs for long. Older code does not read the columns. Code that is
-- newer than the database treats every user as not banned and without a second factor. Forward only.

ALTER TABLE keywicket.users
    ADD COLUMN banned_until timestamptz,
    ADD COLUMN mfa_enrolled boolean NOT NULL DEFAULT false;

GRANT SELECT (banned_until, mfa_enrolled) ON keywicket.users TO keywicket_sidecar;
