-- +goose Up
-- The issuer deletes grants of which nothing is left; and a client id may be given when an app is created, so its form is held
-- here: it stands in URLs and in Basic credentials.
--
-- On a live database: reads oauth_apps once under a lock, which takes milliseconds. Code before and after runs with and without
-- it. Forward only.

GRANT DELETE ON keywicket.oauth_grants TO keywicket_issuer;

ALTER TABLE keywicket.oauth_apps ADD CONSTRAINT oauth_apps_id_form CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$');
