-- +goose Up
-- Why a token or a grant was revoked, and a function that revokes credentials which leaked. The function writes the reason 'leaked'.
-- NULL means that no reason was given. The audit log shows the reason, because its triggers record every column.
--
-- On a live database: this migration takes milliseconds. It waits for running transactions that use tokens or grants, and blocks
-- later ones meanwhile. Code of the previous version works with the new schema: it writes no reason. The sidecar and the issuer do
-- not use the columns. The other commands need this migration. This migration cannot be undone.

ALTER TABLE keywicket.tokens ADD COLUMN revoked_reason text;
ALTER TABLE keywicket.oauth_grants ADD COLUMN revoked_reason text;

-- revoke_leaked revokes the tokens with the digests, and the grants of the access tokens with the digests. It returns a row for each
-- digest. The result is revoked, already_revoked or unknown. The id is the token's id, and grant_id the grant of an access token. It
-- locks the rows in the order of their ids. So two calls cannot wait for each other, and only one of them revokes a row. It runs with
-- the privileges of its owner, because the console's role cannot read digests.
-- +goose StatementBegin
CREATE FUNCTION keywicket.revoke_leaked(digests bytea[]) RETURNS TABLE (digest bytea, result text, id text, grant_id text)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
WITH leaked_token AS (
    UPDATE keywicket.tokens t SET revoked_at = clock_timestamp(), revoked_reason = 'leaked'
    WHERE t.id IN (
        SELECT l.id FROM keywicket.tokens l WHERE l.digest = ANY (digests) AND l.revoked_at IS NULL ORDER BY l.id FOR UPDATE)
    RETURNING t.id),
leaked_grant AS (
    UPDATE keywicket.oauth_grants g SET revoked_at = clock_timestamp(), revoked_reason = 'leaked'
    WHERE g.id IN (
        SELECT l.id FROM keywicket.oauth_grants l WHERE l.revoked_at IS NULL AND l.id IN (
            SELECT a.grant_id FROM keywicket.oauth_access_tokens a WHERE a.digest = ANY (digests)) ORDER BY l.id FOR UPDATE)
    RETURNING g.id)
SELECT asked.digest,
       CASE WHEN t.id IS NULL AND a.id IS NULL THEN 'unknown'
            WHEN leaked_token.id IS NULL AND leaked_grant.id IS NULL THEN 'already_revoked'
            ELSE 'revoked' END,
       COALESCE(t.id, a.id), CASE WHEN t.id IS NULL THEN a.grant_id END
FROM unnest(digests) AS asked (digest)
LEFT JOIN keywicket.tokens t ON t.digest = asked.digest
LEFT JOIN leaked_token ON leaked_token.id = t.id
LEFT JOIN keywicket.oauth_access_tokens a ON a.digest = asked.digest
LEFT JOIN leaked_grant ON leaked_grant.id = a.grant_id
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION keywicket.revoke_leaked(bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keywicket.revoke_leaked(bytea[]) TO keywicket_operator;
GRANT SELECT (revoked_reason) ON keywicket.tokens TO keywicket_operator;
GRANT SELECT (revoked_reason) ON keywicket.oauth_grants TO keywicket_operator;
