-- +goose Up
-- What the product's identity provider knows of a user, and a decision needs: until when the user is banned, and whether
-- they have a second factor. docs/configuration.md has the triggers that copy both from Supabase's tables.
--
-- While a user is banned, none of their credentials is good: keys, access tokens of OAuth 2.0 and sessions.
--
-- On a live database: takes milliseconds once it has the table's exclusive lock, for which it waits for the transactions
-- that use the table; new queries wait behind it, so migrate when none runs for long. Code that is older does not read the
-- columns. Code that is newer than the database takes every user for one who is not banned and has no second factor.
-- Forward only.

ALTER TABLE keywicket.users
    ADD COLUMN banned_until timestamptz,
    ADD COLUMN mfa_enrolled boolean NOT NULL DEFAULT false;

GRANT SELECT (banned_until, mfa_enrolled) ON keywicket.users TO keywicket_sidecar;
