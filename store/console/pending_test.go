package console_test

// pending creates what the migrations 00021 and 00022 create, and what migration 00025 will grant, if they are not there yet.
const pending = `
	CREATE TABLE IF NOT EXISTS keywicket.token_use (token_id text NOT NULL, day date NOT NULL, allowed bigint NOT NULL, denied bigint NOT NULL,
		CONSTRAINT token_use_pkey PRIMARY KEY (token_id, day));
	ALTER TABLE keywicket.tokens ADD COLUMN IF NOT EXISTS created_by text;
	GRANT SELECT ON keywicket.token_use TO keywicket_console;
	GRANT SELECT (created_by) ON keywicket.tokens TO keywicket_console;
`
