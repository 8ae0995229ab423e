-- +goose Up
-- An index to find a token by the part of its key that may be shown: of a key that turned up in a log or in a
-- repository that part is all that anybody should type. With text_pattern_ops, because LIKE 'p%' cannot use an index
-- that is sorted by a language's rules.
--
-- On a live database: checks go on, and so does the record of what was used; whoever creates, imports or revokes a
-- token waits until the index is made, about a second for a million tokens. To spare them even that, make it beforehand
-- by hand, as the owner of the table: with CONCURRENTLY, under the same name, and valid. It is then taken for done. Code
-- that does not know the index is not affected by it, and code that does is only slower without. Forward only.

CREATE INDEX IF NOT EXISTS tokens_visible_prefix ON keywicket.tokens (visible_prefix text_pattern_ops);
