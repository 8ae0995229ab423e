-- +goose Up
-- The issuer deletes grants that have no codes and tokens left. A client id may be chosen when an app is created; it is used in URLs
-- and in Basic credentials, so its form is checked.
--
-- On a live database: reads oauth_apps once under a lock, which takes milliseconds. Older and newer code works with and without
-- this migration. Forward only.

GRANT DELETE ON keywicket.oauth_grants TO keywicket_issuer;

ALTER TABLE keywicket.oauth_apps ADD CONSTRAINT oauth_apps_id_form CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$');
