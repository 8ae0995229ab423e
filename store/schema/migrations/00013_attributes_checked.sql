-- +goose Up
-- Validates the constraints of 00012: Postgres checks every row once. A constraint that stays NOT VALID prevents table inheritance.
--
-- This is a separate migration, because 00012 holds exclusive locks until it ends.
--
-- On a live database: reads the three tables once, about a second for a million rows. Look-ups and writes continue meanwhile;
-- VACUUM and schema changes wait. Code of any version is not affected. Forward only.

ALTER TABLE keywicket.tokens VALIDATE CONSTRAINT tokens_attributes_form;
ALTER TABLE keywicket.users VALIDATE CONSTRAINT users_attributes_form;
ALTER TABLE keywicket.workspaces VALIDATE CONSTRAINT workspaces_attributes_form;
