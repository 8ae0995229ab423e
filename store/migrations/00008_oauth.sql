-- +goose Up
-- OAuth 2.0: the apps, what users have granted them, and the codes and tokens that stand for a grant.
--
-- Of codes, tokens and clients' secrets only the SHA-256 is here. Revoking a grant or an app is one row: what hangs on it is
-- worth nothing from then on. The tables are the issuer's; the sidecar reads what a look-up needs, and writes nothing.
--
-- On a live database: creates tables, locks nothing that is in use, and takes milliseconds. A sidecar that is older does not
-- look at them. One that is newer than the database does without its cache, and knows no access token. Forward only.

CREATE TABLE keywicket.oauth_apps (
    id            text        NOT NULL DEFAULT gen_random_uuid()::text CONSTRAINT oauth_apps_pkey PRIMARY KEY, -- the client_id
    api           text        NOT NULL CONSTRAINT oauth_apps_api_form CHECK (api ~ '^[A-Za-z0-9_-]{1,63}$'),
    name          text        NOT NULL CONSTRAINT oauth_apps_name_form
                              CHECK (char_length(name) <= 100 AND name ~ '\S' AND name !~ '[[:cntrl:]]'),
    -- Each is compared as a whole: which forms there may be is checked where they are set.
    redirect_uris text[]      NOT NULL CONSTRAINT oauth_apps_redirect_uris_form
                              CHECK (cardinality(redirect_uris) BETWEEN 1 AND 20 AND array_position(redirect_uris, NULL) IS NULL),
    secret_digest bytea       NOT NULL CONSTRAINT oauth_apps_secret_digest_form CHECK (octet_length(secret_digest) = 32),
    -- Without its secret a confidential app gets nothing; of any other the secret is checked when it is sent.
    confidential  boolean     NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at    timestamptz
);

CREATE TABLE keywicket.oauth_grants (
    id         text        NOT NULL DEFAULT gen_random_uuid()::text CONSTRAINT oauth_grants_pkey PRIMARY KEY,
    app_id     text        NOT NULL REFERENCES keywicket.oauth_apps ON DELETE CASCADE,
    user_id    text        NOT NULL REFERENCES keywicket.users ON DELETE CASCADE,
    scopes     text[]      NOT NULL CONSTRAINT oauth_grants_scopes_form CHECK (array_position(scopes, NULL) IS NULL),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at timestamptz
);
CREATE INDEX oauth_grants_app_id ON keywicket.oauth_grants (app_id, created_at);
CREATE INDEX oauth_grants_user_id ON keywicket.oauth_grants (user_id, created_at);

-- The workspaces that the user has granted. None: what the app may do is what the user does as such.
CREATE TABLE keywicket.oauth_grant_workspaces (
    grant_id     text NOT NULL REFERENCES keywicket.oauth_grants ON DELETE CASCADE,
    workspace_id text NOT NULL REFERENCES keywicket.workspaces ON DELETE CASCADE,
    CONSTRAINT oauth_grant_workspaces_pkey PRIMARY KEY (grant_id, workspace_id)
);
CREATE INDEX oauth_grant_workspaces_workspace_id ON keywicket.oauth_grant_workspaces (workspace_id);

-- RFC 6749, section 4.1.2, and RFC 7636. A code that was used stays until it expires, so that its second use is seen.
CREATE TABLE keywicket.oauth_codes (
    digest         bytea       NOT NULL CONSTRAINT oauth_codes_pkey PRIMARY KEY
                               CONSTRAINT oauth_codes_digest_form CHECK (octet_length(digest) = 32),
    grant_id       text        NOT NULL REFERENCES keywicket.oauth_grants ON DELETE CASCADE,
    redirect_uri   text        NOT NULL,
    code_challenge text        NOT NULL CONSTRAINT oauth_codes_code_challenge_form CHECK (code_challenge ~ '^[A-Za-z0-9_-]{43}$'),
    expires_at     timestamptz NOT NULL,
    used_at        timestamptz
);
CREATE INDEX oauth_codes_grant_id ON keywicket.oauth_codes (grant_id);
CREATE INDEX oauth_codes_expires_at ON keywicket.oauth_codes (expires_at);

-- RFC 6749, section 6. One that was used stays until it expires, likewise.
CREATE TABLE keywicket.oauth_refresh_tokens (
    digest     bytea       NOT NULL CONSTRAINT oauth_refresh_tokens_pkey PRIMARY KEY
                           CONSTRAINT oauth_refresh_tokens_digest_form CHECK (octet_length(digest) = 32),
    grant_id   text        NOT NULL REFERENCES keywicket.oauth_grants ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
CREATE INDEX oauth_refresh_tokens_grant_id ON keywicket.oauth_refresh_tokens (grant_id);
CREATE INDEX oauth_refresh_tokens_expires_at ON keywicket.oauth_refresh_tokens (expires_at);

CREATE TABLE keywicket.oauth_access_tokens (
    id         text        NOT NULL DEFAULT gen_random_uuid()::text CONSTRAINT oauth_access_tokens_pkey PRIMARY KEY,
    digest     bytea       NOT NULL CONSTRAINT oauth_access_tokens_digest_key UNIQUE
                           CONSTRAINT oauth_access_tokens_digest_form CHECK (octet_length(digest) = 32),
    grant_id   text        NOT NULL REFERENCES keywicket.oauth_grants ON DELETE CASCADE,
    scopes     text[]      NOT NULL CONSTRAINT oauth_access_tokens_scopes_form CHECK (array_position(scopes, NULL) IS NULL),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX oauth_access_tokens_grant_id ON keywicket.oauth_access_tokens (grant_id);
CREATE INDEX oauth_access_tokens_expires_at ON keywicket.oauth_access_tokens (expires_at);

-- What a look-up reads.
GRANT SELECT (id, api, revoked_at) ON keywicket.oauth_apps TO keywicket_sidecar;
GRANT SELECT (id, app_id, user_id, revoked_at) ON keywicket.oauth_grants TO keywicket_sidecar;
GRANT SELECT ON keywicket.oauth_grant_workspaces TO keywicket_sidecar;
GRANT SELECT (id, digest, grant_id, scopes, expires_at, revoked_at) ON keywicket.oauth_access_tokens TO keywicket_sidecar;

-- What the issuer writes: grants, and what stands for them. Apps are the operator's.
GRANT SELECT ON keywicket.oauth_apps TO keywicket_issuer;
GRANT SELECT, INSERT, UPDATE (revoked_at) ON keywicket.oauth_grants TO keywicket_issuer;
GRANT SELECT, INSERT ON keywicket.oauth_grant_workspaces TO keywicket_issuer;
GRANT SELECT, INSERT, DELETE, UPDATE (used_at) ON keywicket.oauth_codes, keywicket.oauth_refresh_tokens TO keywicket_issuer;
GRANT SELECT, INSERT, DELETE, UPDATE (revoked_at) ON keywicket.oauth_access_tokens TO keywicket_issuer;
GRANT SELECT (session_id, user_id, revoked_at) ON keywicket.revoked_sessions TO keywicket_issuer; -- who asks for consent

CALL keywicket.tell_changes_of('oauth_access_tokens', $k$'token', 'encode(digest, ''hex'')'$k$);
CALL keywicket.tell_changes_of('oauth_grants', $k$'grant', 'id'$k$);
CALL keywicket.tell_changes_of('oauth_grant_workspaces', $k$'grant', 'grant_id'$k$);
CALL keywicket.tell_changes_of('oauth_apps', $k$'app', 'id'$k$);
