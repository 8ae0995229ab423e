-- +goose Up
-- A function for `token rotate`: it makes a token end earlier. The role keywicket_operator has no privilege to change the expiry of
-- tokens, because with this privilege it could also make tokens end later.
--
-- On a live database: this migration takes milliseconds, and locks nothing that is in use. Code of every version works as before.
-- This migration cannot be undone.

-- shorten_token makes an active token end after the given time, or at its expiry if that is earlier. It returns a row with the
-- token's lifetime from its creation to its former expiry; the lifetime is NULL if the token had no expiry. If no active token has
-- the id, it returns no row. It runs with the privileges of its owner.
-- +goose StatementBegin
CREATE FUNCTION keywicket.shorten_token(token_id text, remaining interval, OUT lifetime interval) RETURNS SETOF interval
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed_at CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF remaining IS NULL OR remaining < interval '0' THEN
        RAISE 'the remaining time must not be negative';
    END IF;
    FOR lifetime IN
        SELECT expires_at - created_at FROM keywicket.tokens
        WHERE id = token_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > changed_at) FOR UPDATE
    LOOP
        UPDATE keywicket.tokens SET expires_at = LEAST(expires_at, changed_at + remaining) WHERE id = token_id;
        RETURN NEXT;
    END LOOP;
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION keywicket.shorten_token(text, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keywicket.shorten_token(text, interval) TO keywicket_operator;
