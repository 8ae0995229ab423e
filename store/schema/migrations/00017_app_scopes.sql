-- +goose Up
-- An app can have registered scopes. If an authorization request of the app has no scope, the issuer asks the user for these scopes
-- (RFC 6749, section 3.3). They are a default, not a limit.
--
-- On a live database: this migration takes milliseconds after it gets the exclusive lock of oauth_apps. Before that, it waits for the
-- transactions that use the table, and new queries wait for the migration. So migrate when there are no long transactions. A new
-- column with a constant default does not rewrite the table. Older code does not use the column. An issuer that is newer than the
-- database treats every app as an app without registered scopes. This migration cannot be undone.

ALTER TABLE keywicket.oauth_apps ADD COLUMN scopes text[] NOT NULL DEFAULT '{}'
    CONSTRAINT oauth_apps_scopes_form CHECK (cardinality(scopes) <= 100 AND array_position(scopes, NULL) IS NULL);

GRANT SELECT (scopes), INSERT (scopes) ON keywicket.oauth_apps TO keywicket_operator;
