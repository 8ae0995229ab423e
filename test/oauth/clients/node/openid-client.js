// A client that uses openid-client.
import * as client from "openid-client";
import { CLIENT_ID, CLIENT_SECRET, ISSUER, REDIRECT_URI, SCOPE, serve } from "./protocol.js";

const config = await client.discovery(new URL(ISSUER), CLIENT_ID, CLIENT_SECRET || undefined, undefined, {
  algorithm: "oauth2",
  execute: [client.allowInsecureRequests], // the demo has no TLS
});
let verifier, state, tokens;

await serve({
  async authorize() {
    verifier = client.randomPKCECodeVerifier();
    state = client.randomState();
    return client.buildAuthorizationUrl(config, {
      redirect_uri: REDIRECT_URI,
      scope: SCOPE,
      code_challenge: await client.calculatePKCECodeChallenge(verifier),
      code_challenge_method: "S256",
      state,
    });
  },
  async exchange(redirected) {
    tokens = await client.authorizationCodeGrant(config, new URL(redirected), { pkceCodeVerifier: verifier, expectedState: state });
    return tokens.access_token;
  },
  async call(path) {
    try {
      return (await client.fetchProtectedResource(config, tokens.access_token, new URL(path, ISSUER), "GET")).status;
    } catch (error) {
      if (error instanceof client.WWWAuthenticateChallengeError) return error.status;
      throw error;
    }
  },
  async refresh() {
    tokens = await client.refreshTokenGrant(config, tokens.refresh_token);
    return tokens.access_token;
  },
  async revoke() {
    await client.tokenRevocation(config, tokens.refresh_token, { token_type_hint: "refresh_token" });
    return "revoked";
  },
});
