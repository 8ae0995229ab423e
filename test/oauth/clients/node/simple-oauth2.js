// A client that uses simple-oauth2. The library has no function for PKCE, but passes unknown parameters on.
import { createHash, randomBytes } from "node:crypto";
import { AuthorizationCode } from "simple-oauth2";
import { CLIENT_ID, CLIENT_SECRET, ISSUER, REDIRECT_URI, SCOPE, serve } from "./protocol.js";

const client = new AuthorizationCode({
  client: { id: CLIENT_ID, secret: CLIENT_SECRET },
  auth: { tokenHost: ISSUER, authorizePath: "/oauth/consent", tokenPath: "/api/oauth/token", revokePath: "/api/oauth/revoke" },
});
const verifier = randomBytes(32).toString("base64url");
const state = randomBytes(16).toString("base64url");
let token;

await serve({
  authorize() {
    return client.authorizeURL({
      redirect_uri: REDIRECT_URI,
      scope: SCOPE,
      state,
      code_challenge: createHash("sha256").update(verifier).digest("base64url"),
      code_challenge_method: "S256",
    });
  },
  async exchange(redirected) {
    const { searchParams } = new URL(redirected);
    if (searchParams.get("state") !== state) throw new Error("another state");
    token = await client.getToken({ code: searchParams.get("code"), redirect_uri: REDIRECT_URI, code_verifier: verifier });
    return token.token.access_token;
  },
  async call(path) {
    return (await fetch(ISSUER + path, { headers: { Authorization: `Bearer ${token.token.access_token}` } })).status;
  },
  async refresh() {
    token = await token.refresh();
    return token.token.access_token;
  },
  async revoke() {
    await token.revoke("refresh_token");
    return "revoked";
  },
});
