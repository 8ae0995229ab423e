-- +goose Up
-- The creator of a token that a token creates. Before, such a token had no creator. So somebody who was going to leave a workspace with
-- the rule `end` could create a token with an older token, and the new token stayed valid.
--
-- Now, if the login that creates a token acts for a token (keywicket.actor), the creator is the user behind that token: its user, or the
-- user who created it. Tokens that exist keep their creator. The function runs with the privileges of its owner, because a login that
-- creates tokens may not be able to read them.
--
-- On a live database: this migration replaces a function, which takes milliseconds, and locks no table. Code of every version works as
-- before. This migration cannot be undone.

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION keywicket.acting_user() RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor jsonb;
BEGIN
    actor := NULLIF(current_setting('keywicket.actor', true), '');
    RETURN CASE actor->>'kind'
        WHEN 'user' THEN NULLIF(actor->>'id', '')
        WHEN 'token' THEN (SELECT COALESCE(user_id, created_by) FROM keywicket.tokens WHERE id = actor->>'id')
        END;
EXCEPTION WHEN data_exception THEN
    RETURN NULL; -- it is no JSON
END
$$;
-- +goose StatementEnd
