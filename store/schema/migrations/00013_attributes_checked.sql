-- +goose Up
-- This migration validates the constraints of migration 00012: Postgres checks every row once. While a constraint is NOT VALID,
-- the table cannot inherit from a table with the same constraint.
--
-- It is a separate migration, because migration 00012 keeps its exclusive locks until it ends.
--
-- On a live database: this migration reads the three tables once, which takes about a second for a million rows. Look-ups and
-- writes continue during this time; VACUUM and schema changes wait. Code of every version works as before. This migration
-- cannot be undone.

ALTER TABLE keywicket.tokens VALIDATE CONSTRAINT tokens_attributes_form;
ALTER TABLE keywicket.users VALIDATE CONSTRAINT users_attributes_form;
ALTER TABLE keywicket.workspaces VALIDATE CONSTRAINT workspaces_attributes_form;
