-- +goose Up
-- The table revoked_sessions lists sessions that end before their tokens expire. A token's signature proves who issued the
-- token, but not that the session still exists. `keywicket session revoke` or the product writes to this table that a session
-- has ended. The product's INSERT fails only if the format of a value is wrong:
--
--     INSERT INTO keywicket.revoked_sessions (session_id) VALUES (...);   -- revokes this session
--     INSERT INTO keywicket.revoked_sessions (user_id) VALUES (...);      -- revokes all sessions that the user has begun by now
--
-- "Now" is the time of the statement. So a transaction should write a row with a user_id in its last statement.
--
-- A row may be deleted when the session can no longer be refreshed and its last token has expired. There is no foreign key to
-- users. So if a user is removed and created again, the user's old sessions stay revoked.
--
-- On a live database: this migration creates a table, locks nothing that is in use, and takes milliseconds. Older sidecars do not
-- read the table. A sidecar that is newer than the database works without its cache, and accepts no session. This migration cannot
-- be undone.

CREATE TABLE keywicket.revoked_sessions (
    id         bigint      GENERATED ALWAYS AS IDENTITY CONSTRAINT revoked_sessions_pkey PRIMARY KEY,
    session_id text        CONSTRAINT revoked_sessions_session_id_form
                           CHECK (char_length(session_id) BETWEEN 1 AND 255 AND session_id = btrim(session_id) AND session_id !~ '[[:cntrl:]]'),
    user_id    text        CONSTRAINT revoked_sessions_user_id_form
                           CHECK (char_length(user_id) BETWEEN 1 AND 255 AND user_id = btrim(user_id) AND user_id !~ '[[:cntrl:]]'),
    revoked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT revoked_sessions_one CHECK (num_nonnulls(session_id, user_id) = 1)
);
CREATE INDEX revoked_sessions_session_id ON keywicket.revoked_sessions (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX revoked_sessions_user_id ON keywicket.revoked_sessions (user_id, revoked_at) WHERE user_id IS NOT NULL;

GRANT SELECT (session_id, user_id, revoked_at) ON keywicket.revoked_sessions TO keywicket_sidecar;
GRANT SELECT (id) ON keywicket.users TO keywicket_sidecar;

CALL keywicket.tell_changes_of('revoked_sessions', $k$'session', 'session_id', 'user', 'user_id'$k$);
