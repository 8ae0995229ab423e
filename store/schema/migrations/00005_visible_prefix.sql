-- +goose Up
-- An index to find a token by the visible part of its key. If a key leaks, an operator can find its token without typing the whole
-- key. The index uses text_pattern_ops, because LIKE 'p%' cannot use an index whose collation is not C.
--
-- On a live database, checks continue, and sidecars continue to write when tokens were last used. Creating, importing and
-- revoking tokens wait until the index is built, about a second for a million tokens. To avoid this wait, the owner of the
-- table can first create the index with CONCURRENTLY, under the same name. The owner must then check that this index is valid,
-- because this migration does nothing if an index with this name exists. Older code works with the index, and newer code
-- without the index is only slower. This migration cannot be undone.

CREATE INDEX IF NOT EXISTS tokens_visible_prefix ON keywicket.tokens (visible_prefix text_pattern_ops);
