// A client of OAuth 2.0 that uses an independent library: oauth4webapi. The library throws an error if a response does not conform
// to its RFC. This program prints the address that the user has to open. Then it reads from its standard input the address to which
// the browser was redirected. Then it exchanges the code, calls the API, and introspects, refreshes and revokes tokens. It prints
// nothing else, and exits with an error if a step fails.
import { createInterface } from "node:readline/promises";
import * as oauth from "oauth4webapi";

const { ISSUER, CLIENT_ID, CLIENT_SECRET, AUTHENTICATION, REDIRECT_URI } = process.env;
const insecure = { [oauth.allowInsecureRequests]: true }; // the demo has no TLS
const client = { client_id: CLIENT_ID };
const authentication = {
  none: () => oauth.None(),
  client_secret_post: () => oauth.ClientSecretPost(CLIENT_SECRET),
  client_secret_basic: () => oauth.ClientSecretBasic(CLIENT_SECRET),
}[AUTHENTICATION]();

function assert(condition, what) {
  if (!condition) throw new Error(what);
}

const issuer = new URL(ISSUER);
const server = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm: "oauth2", ...insecure }));
assert(server.code_challenge_methods_supported.includes("S256"), "the metadata do not list S256");
assert(server.token_endpoint_auth_methods_supported.includes(AUTHENTICATION), `the metadata do not list ${AUTHENTICATION}`);

const verifier = oauth.generateRandomCodeVerifier();
const state = oauth.generateRandomState();
const authorize = new URL(server.authorization_endpoint);
authorize.search = new URLSearchParams({
  client_id: CLIENT_ID, redirect_uri: REDIRECT_URI, response_type: "code", scope: "issues:read issues:write", state,
  code_challenge: await oauth.calculatePKCECodeChallenge(verifier), code_challenge_method: "S256",
});
console.log(authorize.href);
const lines = createInterface({ input: process.stdin });
const { value: redirected } = await lines[Symbol.asyncIterator]().next();
lines.close();

const parameters = oauth.validateAuthResponse(server, client, new URL(redirected), state); // also checks iss (RFC 9207)
const tokens = await oauth.processAuthorizationCodeResponse(server, client,
  await oauth.authorizationCodeGrantRequest(server, client, authentication, parameters, REDIRECT_URI, verifier, insecure));
assert(tokens.token_type === "bearer" && tokens.expires_in === 3600 && tokens.scope === "issues:read issues:write", JSON.stringify(Object.keys(tokens)));

// On a busy machine, the sidecar may answer 503 with Retry-After.
const call = async (token, path, attempts = 10) => {
  const response = await oauth.protectedResourceRequest(token, "GET", new URL(path, ISSUER), undefined, undefined, insecure);
  if (response.status !== 503 || attempts === 1) return response.json();
  await new Promise((elapsed) => setTimeout(elapsed, 1000 * response.headers.get("retry-after")));
  return call(token, path, attempts - 1);
};
const seen = await call(tokens.access_token, "/api/issues");
assert(seen.headers["x-keywicket-kind"][0] === "oauth_token", "the upstream received another x-keywicket-kind");
const refused = await call(tokens.access_token, "/api/projects").then(() => null, (error) => error);
assert(refused instanceof oauth.WWWAuthenticateChallengeError && refused.cause[0].scheme === "bearer" &&
  refused.cause[0].parameters.error === "insufficient_scope" && refused.cause[0].parameters.scope === "projects:read", `not refused as RFC 6750 requires: ${refused}`);

if (CLIENT_SECRET) {
  const introspection = await oauth.processIntrospectionResponse(server, client,
    await oauth.introspectionRequest(server, client, authentication, tokens.access_token, insecure));
  assert(introspection.active && introspection.client_id === CLIENT_ID && introspection.iss === ISSUER, "the introspection does not return an active token");
}

const refresh = async (token, scope) => oauth.processRefreshTokenResponse(server, client,
  await oauth.refreshTokenGrantRequest(server, client, authentication, token, { additionalParameters: scope ? { scope } : {}, ...insecure }));
const narrow = await refresh(tokens.refresh_token, "issues:read");
assert(narrow.scope === "issues:read" && narrow.refresh_token !== tokens.refresh_token, "the scope is not narrowed, or the refresh token is not rotated");
const wide = await refresh(narrow.refresh_token, "issues:read projects:read").then(() => null, (error) => error);
assert(wide instanceof oauth.ResponseBodyError && wide.error === "invalid_scope", `the scope is widened: ${wide}`);
const again = await refresh(narrow.refresh_token);
assert(again.scope === "issues:read issues:write", `the scope is ${again.scope}`);

await oauth.processRevocationResponse(await oauth.revocationRequest(server, client, authentication, again.refresh_token, insecure));
const revoked = await refresh(again.refresh_token).then(() => null, (error) => error);
assert(revoked instanceof oauth.ResponseBodyError && revoked.error === "invalid_grant", `the refresh token is not revoked: ${revoked}`);
for (const end = Date.now() + 30_000; ;) { // the revocation takes effect within the sidecar's staleness bound
  const error = await call(again.access_token, "/api/issues").then(() => null, (error) => error);
  if (error instanceof oauth.WWWAuthenticateChallengeError && error.cause[0].parameters.error === "invalid_token") break;
  assert(Date.now() < end, `the access token still works: ${error}`);
}
