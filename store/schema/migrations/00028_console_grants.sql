-- +goose Up
-- What the console reads of the tables that older migrations made without its role: the requests of each token per day, and the last
-- use of each grant.
--
-- On a live database: this migration takes milliseconds. It does not wait for queries, and queries do not wait for it. Code of every
-- version works as before. This migration cannot be undone.

GRANT SELECT (token_id, day, allowed, denied) ON keywicket.token_use TO keywicket_console;
GRANT SELECT (grant_id, last_used_at) ON keywicket.grant_usage TO keywicket_console;
