-- +goose Up
-- OAuth 2.0: apps, the grants that users give to apps, and the codes and tokens of these grants.
--
-- Only the SHA-256 of codes, tokens and client secrets is stored. The revocation of a grant or an app changes one row. It makes
-- all codes and tokens of this grant or app invalid. The issuer writes the tables, and the sidecar reads only the columns that
-- a look-up needs.
--
-- On a live database: this migration creates tables, locks nothing that is in use, and takes milliseconds. Older sidecars do not
-- read the new tables. A sidecar that is newer than the database works without its cache, and accepts no access token. This
-- migration cannot be undone.

CREATE TABLE keywicket.oauth_apps (
    id            text        NOT NULL DEFAULT gen_random_uuid()::text CONSTRAINT oauth_apps_pkey PRIMARY KEY, -- the client_id
    api           text        NOT NULL CONSTRAINT oauth_apps_api_form CHECK (api ~ '^[A-Za-z0-9_-]{1,63}$'),
    name          text        NOT NULL CONSTRAINT oauth_apps_name_form
                              CHECK (char_length(name) <= 100 AND name ~ '\S' AND name !~ '[[:cntrl:]]'),
    -- The redirect URI of a request must be identical to one of these URIs. Only the port of a loopback address may differ. The
    -- command that creates an app checks the format of the URIs.
    redirect_uris text[]      NOT NULL CONSTRAINT oauth_apps_redirect_uris_form
                              CHECK (cardinality(redirect_uris) BETWEEN 1 AND 20 AND array_position(redirect_uris, NULL) IS NULL),
    secret_digest bytea       NOT NULL CONSTRAINT oauth_apps_secret_digest_form CHECK (octet_length(secret_digest) = 32),
    -- A confidential app must always send its secret. The secret of any other app is checked only if the app sends it.
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

-- The workspaces to which the user has granted access. If a grant has no workspaces, the app may do only what the user may do
-- outside a workspace.
CREATE TABLE keywicket.oauth_grant_workspaces (
    grant_id     text NOT NULL REFERENCES keywicket.oauth_grants ON DELETE CASCADE,
    workspace_id text NOT NULL REFERENCES keywicket.workspaces ON DELETE CASCADE,
    CONSTRAINT oauth_grant_workspaces_pkey PRIMARY KEY (grant_id, workspace_id)
);
CREATE INDEX oauth_grant_workspaces_workspace_id ON keywicket.oauth_grant_workspaces (workspace_id);

-- See RFC 6749, section 4.1.2, and RFC 7636. A used code stays in the table until it expires, so that the issuer detects a
-- second use.
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

-- See RFC 6749, section 6. A used refresh token also stays in the table until it expires.
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

-- The columns that look-ups read.
GRANT SELECT (id, api, revoked_at) ON keywicket.oauth_apps TO keywicket_sidecar;
GRANT SELECT (id, app_id, user_id, revoked_at) ON keywicket.oauth_grants TO keywicket_sidecar;
GRANT SELECT ON keywicket.oauth_grant_workspaces TO keywicket_sidecar;
GRANT SELECT (id, digest, grant_id, scopes, expires_at, revoked_at) ON keywicket.oauth_access_tokens TO keywicket_sidecar;

-- The issuer writes grants, codes and tokens. Only the operator writes apps.
GRANT SELECT ON keywicket.oauth_apps TO keywicket_issuer;
GRANT SELECT, INSERT, UPDATE (revoked_at) ON keywicket.oauth_grants TO keywicket_issuer;
GRANT SELECT, INSERT ON keywicket.oauth_grant_workspaces TO keywicket_issuer;
GRANT SELECT, INSERT, DELETE, UPDATE (used_at) ON keywicket.oauth_codes, keywicket.oauth_refresh_tokens TO keywicket_issuer;
GRANT SELECT, INSERT, DELETE, UPDATE (revoked_at) ON keywicket.oauth_access_tokens TO keywicket_issuer;
GRANT SELECT (session_id, user_id, revoked_at) ON keywicket.revoked_sessions TO keywicket_issuer; -- on the consent page, the issuer checks the session of the user

CALL keywicket.tell_changes_of('oauth_access_tokens', $k$'token', 'encode(digest, ''hex'')'$k$);
CALL keywicket.tell_changes_of('oauth_grants', $k$'grant', 'id'$k$);
CALL keywicket.tell_changes_of('oauth_grant_workspaces', $k$'grant', 'grant_id'$k$);
CALL keywicket.tell_changes_of('oauth_apps', $k$'app', 'id'$k$);
