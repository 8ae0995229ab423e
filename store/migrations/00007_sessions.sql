-- +goose Up
-- The sessions that are over before their tokens are. Whether a token is one of the issuer's, its signature tells; that the
-- session has ended is told here, by `keywicket session revoke`, or by the product, with an INSERT that can fail for no
-- reason but its form:
--
--     INSERT INTO keywicket.revoked_sessions (session_id) VALUES (...);   -- this one
--     INSERT INTO keywicket.revoked_sessions (user_id) VALUES (...);      -- all that the user has begun by now
--
-- "Now" is the statement's time: a transaction should write the second kind of row at its end.
--
-- A row may be deleted when the session cannot be refreshed any more and its last token has expired. Users are not
-- referenced: a user who was removed and comes back is somebody new, whose old sessions are still revoked.
--
-- On a live database: creates a table, locks nothing that is in use, and takes milliseconds. A sidecar that is older does not
-- look at the table. One that is newer than the database does without its cache, and takes no session. Forward only.

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
