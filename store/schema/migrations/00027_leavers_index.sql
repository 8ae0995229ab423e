-- +goose Up
-- An index to find the tokens that a user created in a workspace, for the trigger of migration 00022 and for lists. Without the
-- index, these are only slower. The migration also checks the constraint that migration 00022 added.
--
-- It is a separate migration, because migration 00022 keeps its exclusive locks until it ends.
--
-- On a live database: checks continue, and sidecars continue to write when tokens were last used. Creating, importing and revoking
-- tokens wait until this migration ends, about 0.2 s for a million tokens. This is short because the tokens from before migration 00022
-- are not in the index. To avoid the wait, the owner of the table can first create the index with CONCURRENTLY, under the same name. The
-- owner must then check that this index is valid, because this migration does nothing if an index with this name exists. Code of
-- every version works as before. This migration cannot be undone.

ALTER TABLE keywicket.workspaces VALIDATE CONSTRAINT workspaces_leaver_rule_form;
CREATE INDEX IF NOT EXISTS tokens_created_by ON keywicket.tokens (workspace_id, created_by) WHERE created_by IS NOT NULL;
