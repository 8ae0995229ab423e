-- +goose Up
-- An index to find a token by the visible part of its key. If a key leaks into a log or a repository, users should type only that
-- part. It uses text_pattern_ops, because LIKE 'p%' cannot use an index in the order of a language.
--
-- On a live database: checks and the writing of usage continue. Creating, importing and revoking tokens wait until the index is
-- built, about a second for a million tokens. To avoid even that, the owner of the table can create it first with CONCURRENTLY,
-- under the same name. It must be valid; this migration then skips it. Older code is not affected by the index, and newer code
-- without it is only slower. Forward only.

CREATE INDEX IF NOT EXISTS tokens_visible_prefix ON keywicket.tokens (visible_prefix text_pattern_ops);
