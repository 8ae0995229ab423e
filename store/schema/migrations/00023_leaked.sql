-- +goose Up
-- Why a token or a grant was revoked, for credentials that leaked. The command `token leaked` and the endpoint for secret scanners
-- write 'leaked'. NULL means that no reason was given. The audit log shows the reason, because its triggers record every column.
--
-- On a live database: this migration takes milliseconds. It waits for running transactions that use tokens or grants, and blocks
-- later ones meanwhile. Code of the previous version works with the new schema: it writes no reason. The sidecar and the issuer do
-- not use the columns. The other commands need this migration. This migration cannot be undone.

ALTER TABLE keywicket.tokens ADD COLUMN revoked_reason text;
ALTER TABLE keywicket.oauth_grants ADD COLUMN revoked_reason text;

GRANT SELECT (revoked_reason), UPDATE (revoked_reason) ON keywicket.tokens TO keywicket_operator;
GRANT SELECT (revoked_reason), UPDATE (revoked_reason) ON keywicket.oauth_grants TO keywicket_operator;
