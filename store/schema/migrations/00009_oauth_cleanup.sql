-- +goose Up
-- The issuer deletes grants for which no codes and no tokens are left. The operator may choose an app's client id when the app
-- is created. Clients send the id in URLs and in Basic credentials, so the new constraint checks the format of the id.
--
-- On a live database: this migration reads oauth_apps once while it locks this table, which takes milliseconds. Older and newer
-- code works with and without this migration. This migration cannot be undone.

GRANT DELETE ON keywicket.oauth_grants TO keywicket_issuer;

ALTER TABLE keywicket.oauth_apps ADD CONSTRAINT oauth_apps_id_form CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$');
