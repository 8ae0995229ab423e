package secrets

// inspections are commands that succeed. leakStack.placeholders replaces the words in capitals.
const inspections = `token list
token list --limit 1 --prefix SECRET
token list --output json --workspace HOME
token revoke GONE
token revoke GONE --output json
explain GET /api/v1/inbox/conversations --token-id GONE
explain GET /api/v1/tags --token-id LIVE --workspace SECRET --output json
explain GET /api/v1/tags --scope tags:read --workspace SECRET
explain GET /api/v1//tags/SECRET --scope tags:read
explain GET /api/v1/nothing/SECRET/x --scope tags:read --output json`

// mistakes are commands with a secret in the wrong place.
const mistakes = `token revoke SECRET
token list SECRET
token list --token SECRET
token list --token=SECRET
token list --SECRET
token list --limit=SECRET
token list --output=SECRET
token list --workspace SECRET
token list --user SECRET
token list --prefix xSECRET
token create --prefix SECRET --workspace HOME --name n --scope inbox:read
token create --prefix sk_live_ --api SECRET --workspace HOME --name n --scope inbox:read
token create --prefix sk_live_ --workspace HOME --name n --scope inbox:read,SECRET
token create --prefix sk_live_ --workspace HOME --name n --scope inbox:read --expires-in SECRET
token create --prefix vel_ --workspace HOME --name n --access SECRET
token import --prefix sk_live_ --format=SECRET
session revoke JWT
session revoke SECRET
session revoke JWT JWT
session revoke --user JWT
token verify SECRET
token verify --api SECRET
token leaked SECRET
token leaked --token=SECRET
session revoke --user SECRET
session JWT
token revoke JWT
token list --prefix JWT
token list --user=JWT
token create --prefix JWT --workspace HOME --name n --scope inbox:read
explain GET / --token-id JWT
explain GET / --scope JWT
workspace create --slug JWT --name n
workspace create --slug SECRET --name n
workspace create --slug n --name n --id=SECRET
user create --email SECRET
member set --workspace HOME --user ada@example.com --role SECRET
explain GET / --token-id SECRET
explain GET / --scope SECRET --api velaflows
explain GET / --api SECRET
explain --log-line SECRET
explain --log-line {"msg":"SECRET"}
explain --log-line {"msg":"decision","api":"SECRET"} GET /
explain --log-line {"msg":"decision","api":"velaflows","allow":true,"subject":"SECRET"} GET /healthz
explain --log-line {"msg":"decision","decision_id":"SECRET"}
serve --listen-grpc SECRET
serve --policies-dir SECRET
serve --config SECRET
serve --database-url SECRET
serve --database-url postgres://postgres:PASSWORD@ADDRESS:notaport/postgres
serve --database-url=postgres://postgres:PASSWORD%zz@ADDRESS/postgres
serve --database-url=postgres://postgres:a/PASSWORD@ADDRESS/postgres
token list --database-url postgres://postgres:PASSWORD@ADDRESS/postgres
token list --database-url postgres://postgres:PASSWORD@127.0.0.1:1/postgres
migrate status postgres://postgres:PASSWORD@ADDRESS/postgres
migrate status host=127.0.0.1 password=PASSWORD`

// unverified are inputs of `token verify` that are not a good token.
var unverified = []string{"UNKNOWN", "GONE_TOKEN", "JWT", "SECRET SECRET", "SECRET\nSECRET", "Bearer SECRET", `"SECRET"`, "xSECRET", "SECRET\x00", "velo_SECRET", "JWTx.JWT"}

// leaked is an input of `token leaked`. Its tokens are unknown or already revoked, or the line is not a token.
const leaked = "UNKNOWN\nGONE_TOKEN\nJWT\nSECRET SECRET\nBearer SECRET\n\"SECRET\"\nxSECRET\nSECRET\x00\nvelo_SECRET\nJWTx.JWT\n"

// sessionConfig is a configuration file for sessions: the issuer, its secret, and the address of its keys without the scheme.
const sessionConfig = `
apis:
  velocity:
    workspace: {header: x-workspace-slug, by: slug}
    credentials: [{kind: workspace_key, prefix: vel_}]
    session: {issuer: %q, hs256_secret: %q, jwks_url: "http:%sPASSWORD"}`

// misconfigurations are configuration files with which a sidecar refuses to start.
var misconfigurations = []string{
	"database: {url: 'postgres://postgres:PASSWORD@ADDRESS:notaport/postgres'}",
	"database: {url: 'host=127.0.0.1 password=PASSWORD sslmode=sometimes'}",
	"database: {url: 'host=127.0.0.1 password=a PASSWORD'}",
	"database: {url: postgres://postgres:a,PASSWORD@ADDRESS/postgres}", // YAML ends the value at the comma
	"database: {url: postgres://postgres:PASSWORD@ADDRESS/postgres",
	"database: postgres://postgres:PASSWORD@ADDRESS/postgres",
	"database: {max_open_connections: PASSWORD}",
	"apis: {velocity: {session: {issuer: i, hs256_secret: PASSWORD}}}", // too short
	"apis: {velocity: {workspace: {header: x, by: slug}, credentials: [{kind: workspace_key, prefix: vel_}], session: {issuer: i, hs256_secret: PASSWORD}}}",
	"apis: {velocity: {session: {hs256_secret: a long enough secret, PASSWORD}}}",
	"apis: {velocity: {session: PASSWORD}}",
	"apis: {velocity: {workspace: {header: x, by: slug}, credentials: [{kind: workspace_key, prefix: vel_}], session: {issuer: i, jwks_url: 'ftp://u:PASSWORD@ADDRESS'}}}",
}

// imports contains a file for each format. These files contain keys that a product issued before it used keywicket. Each file
// in badImports contains a line that cannot be imported.
var imports = map[string]string{
	"csv": "token,digest,prefix,name,scopes,workspace,revoked_at\n" +
		"FIRST,,,n,inbox:read,HOME,\n,DIGEST_SECOND,VISIBLE_SECOND,n,inbox:read,HOME,\nTHIRD,,,n,inbox:read,HOME,2020-01-01T00:00:00Z\n",
	"ndjson": `{"token":"FOURTH","name":"n","scopes":["inbox:read"],"workspace":"HOME"}` + "\n" +
		`{"digest":"DIGEST_FIFTH","prefix":"VISIBLE_FIFTH","name":"n","scopes":["inbox:read"],"workspace":"HOME"}` + "\n",
}

var badImports = map[string][]string{
	"csv": {
		"BAD,n,inbox:read,HOME\n",
		"token,name,scopes,workspace\nBAD,n\n\"BAD,n,inbox:read,HOME\n",
		"token,name,scopes,workspace\nBAD,n,BAD,HOME\nBAD,n,inbox:read,BAD\nn,BAD,inbox:read,HOME\nBAD\xff,n,inbox:read,HOME\n",
		"token,name,scopes,workspace\nBAD,n,inbox:read,HOME\nBAD,n,inbox:read,HOME\nFIRST,n,inbox:read,HOME\n",
		"token,digest,name,scopes,workspace,expires_at\nBAD,DIGEST_BAD,n,inbox:read,HOME,\nBAD,,n,inbox:read,HOME,BAD\n,BAD,n,inbox:read,HOME,\n",
		"digest,prefix,name,scopes,workspace\nDIGEST_BAD,BAD,n,inbox:read,HOME\nDIGEST_BADDIGEST_BAD,sk_live_,n,inbox:read,HOME\n",
	},
	"ndjson": {
		`{"BAD":"token"}`, `{"token":"BAD"`, "BAD", `{"token":["BAD"]}`, `{"digest":"DIGEST_BAD","scopes":"BAD"}`,
		`{"token":"BAD","name":"n","scopes":["BAD"],"workspace":"BAD"}`,
	},
}
