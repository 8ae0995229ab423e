-- +goose Up
-- Two browser tabs of an app may use the same refresh token at almost the same time. For a few seconds, the issuer accepts the
-- second use (issuer.reuse_window), but only while no successor of the token has been used. The new column parent contains the
-- digest of the token whose use created the row. It is NULL for the refresh token that was issued for a code, and for rows of
-- older issuers.
--
-- An app in development may have redirect URIs with the host localhost. The consent page tells the user that the app is in
-- development.
--
-- On a live database: this migration takes milliseconds after it gets the exclusive locks of the two tables. A new column with a
-- constant default does not rewrite the table. Before this migration gets the locks, it waits for the transactions that use the
-- tables, and new queries wait for the migration. So migrate when there are no long transactions. This migration locks the
-- tables in the same order as a refresh. `keywicket grant list` uses another order, so that command or the migration may fail
-- with a deadlock. If one fails, it has changed nothing, and can be repeated. Older code does not use the columns. After a
-- refresh by an older issuer, a second use of the refresh token revokes the grant, as before. Code that is newer than the
-- database accepts no second use, and treats every app as not in development. This migration cannot be undone.

LOCK TABLE keywicket.oauth_refresh_tokens, keywicket.oauth_apps IN ACCESS EXCLUSIVE MODE;

ALTER TABLE keywicket.oauth_refresh_tokens ADD COLUMN parent bytea;

ALTER TABLE keywicket.oauth_apps ADD COLUMN development boolean NOT NULL DEFAULT false;
