-- +goose Up
-- This migration adds data from the product's identity provider that decisions need: the end of a user's ban, and whether the
-- user has a second factor. docs/configuration.md contains triggers that copy these data from Supabase's tables.
--
-- While a user is banned, all the user's keys, OAuth 2.0 access tokens and sessions are invalid.
--
-- On a live database: this migration takes milliseconds after it gets the exclusive lock of the table. Before this migration
-- gets the lock, it waits for the transactions that use the table, and new queries wait for the migration. So migrate when
-- there are no long transactions. Older code does not read the columns. Code that is newer than the database treats every user
-- as not banned and without a second factor. This migration cannot be undone.

ALTER TABLE keywicket.users
    ADD COLUMN banned_until timestamptz,
    ADD COLUMN mfa_enrolled boolean NOT NULL DEFAULT false;

GRANT SELECT (banned_until, mfa_enrolled) ON keywicket.users TO keywicket_sidecar;
