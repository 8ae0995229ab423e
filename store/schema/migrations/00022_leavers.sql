-- +goose Up
-- Who created a token, and what happens to a workspace's tokens when their creator leaves the workspace.
--
-- If the login that creates a token acts for a user (keywicket.actor, see migration 00018), tokens.created_by is the user's id. It is
-- NULL if the login acts for nobody, for an app or for a token, and for all older tokens. The column has no foreign key: the id stays
-- when the user is deleted, so that the token can still be found as the token of somebody who left.
--
-- workspaces.leaver_rule has one of three values: keep (nothing happens), mark (lists and the metric show these tokens), or end (the
-- creator's active tokens of the workspace are revoked). A rule applies to those who leave while it is set.
--
-- A user leaves when the row in members is deleted, also with the user, or gets another user or workspace. The trigger is deferred: it
-- runs at the end of the transaction, and does nothing if the user is a member again. So a product that replaces all members of a
-- workspace in one transaction ends no tokens. The trigger also runs for rows that logical replication deletes. If the copy has the
-- tokens too, they are already revoked then. If not, the copy's audit log has no entry about them. After TRUNCATE of members, everybody
-- has left, and the trigger runs immediately: a trigger for TRUNCATE cannot be deferred.
--
-- A token that a member creates locks the row of the member until the transaction ends. So a removal at the same time waits, and then
-- sees the token. In a workspace with the rule `end`, only a member can be the creator of a token. The removal has to run with the
-- isolation level read committed. With another level, it does not see a token that was created while it waited.
--
-- On a live database: this migration takes milliseconds after it gets the exclusive locks of tokens and workspaces. The new columns do
-- not rewrite the tables. Before this migration gets the locks, it waits for the transactions that use tokens or workspaces, or that
-- have written to members, and such new transactions wait for the migration. So migrate when there are no long transactions. A token
-- import, or the deletion of a workspace, locks the tables in another order, so it or the migration may fail with a deadlock. If one
-- fails, it has changed nothing, and can be repeated. Migration 00027 adds the index and checks the constraint, without an exclusive
-- lock. Code of the previous version works with the new schema. This migration cannot be undone.

LOCK TABLE keywicket.members IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE keywicket.tokens, keywicket.workspaces IN ACCESS EXCLUSIVE MODE;

-- If the login acts for a user, acting_user returns the user's id, otherwise NULL. An invalid setting is not an error here: the audit log's
-- trigger refuses it.
-- +goose StatementBegin
CREATE FUNCTION keywicket.acting_user() RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor jsonb;
BEGIN
    actor := NULLIF(current_setting('keywicket.actor', true), '');
    RETURN CASE actor->>'kind' WHEN 'user' THEN NULLIF(actor->>'id', '') END;
EXCEPTION WHEN data_exception THEN
    RETURN NULL; -- it is no JSON
END
$$;
-- +goose StatementEnd

-- Every role that creates tokens calls the function.
GRANT EXECUTE ON FUNCTION keywicket.acting_user() TO PUBLIC;

-- A default that is set later applies only to new rows. An import without an actor does not call the function.
ALTER TABLE keywicket.tokens ADD COLUMN created_by text;
ALTER TABLE keywicket.tokens ALTER COLUMN created_by
    SET DEFAULT CASE WHEN current_setting('keywicket.actor', true) <> '' THEN keywicket.acting_user() END;

ALTER TABLE keywicket.workspaces
    ADD COLUMN leaver_rule text NOT NULL DEFAULT 'mark',
    ADD CONSTRAINT workspaces_leaver_rule_form CHECK (leaver_rule IN ('keep', 'mark', 'end')) NOT VALID;

-- hold_creator keeps the creator of a new token a member until the transaction ends.
-- +goose StatementBegin
CREATE FUNCTION keywicket.hold_creator() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM keywicket.members WHERE workspace_id = NEW.workspace_id AND user_id = NEW.created_by FOR KEY SHARE;
    IF NOT FOUND AND EXISTS (SELECT FROM keywicket.workspaces WHERE id = NEW.workspace_id AND leaver_rule = 'end') THEN
        RAISE 'the token''s creator is not a member of the workspace, whose leaver rule is end: add the member first'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'tokens_creator_is_member';
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- end_leavers_tokens revokes the active tokens of somebody who left a workspace with the rule `end`.
-- +goose StatementBegin
CREATE FUNCTION keywicket.end_leavers_tokens() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ended_at CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE keywicket.tokens SET revoked_at = ended_at
            WHERE created_by IS NOT NULL AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ended_at)
              AND workspace_id IN (SELECT id FROM keywicket.workspaces WHERE leaver_rule = 'end');
    ELSIF EXISTS (SELECT FROM keywicket.workspaces WHERE id = OLD.workspace_id AND leaver_rule = 'end')
        AND NOT EXISTS (SELECT FROM keywicket.members WHERE workspace_id = OLD.workspace_id AND user_id = OLD.user_id) THEN
        UPDATE keywicket.tokens SET revoked_at = ended_at
            WHERE workspace_id = OLD.workspace_id AND created_by = OLD.user_id
              AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ended_at);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION keywicket.hold_creator(), keywicket.end_leavers_tokens() FROM PUBLIC;

CREATE TRIGGER hold_creator AFTER INSERT ON keywicket.tokens
    FOR EACH ROW WHEN (NEW.created_by IS NOT NULL AND NEW.workspace_id IS NOT NULL) EXECUTE FUNCTION keywicket.hold_creator();

CREATE CONSTRAINT TRIGGER leave AFTER DELETE OR UPDATE OF workspace_id, user_id ON keywicket.members
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keywicket.end_leavers_tokens();
CREATE TRIGGER leave_truncate AFTER TRUNCATE ON keywicket.members
    FOR EACH STATEMENT EXECUTE FUNCTION keywicket.end_leavers_tokens();
ALTER TABLE keywicket.members ENABLE ALWAYS TRIGGER leave, ENABLE ALWAYS TRIGGER leave_truncate;

GRANT SELECT (created_by) ON keywicket.tokens TO keywicket_operator;
GRANT SELECT (leaver_rule), UPDATE (leaver_rule) ON keywicket.workspaces TO keywicket_operator;
