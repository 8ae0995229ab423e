// A web app that uses Auth.js. Auth.js signs the user in and gets the first tokens. An app refreshes and revokes tokens with
// requests of its own, as in the guide "Refresh Token Rotation" of Auth.js. The client id and the secret are in the form.
import { Auth, skipCSRFCheck } from "@auth/core";
import { CLIENT_ID, CLIENT_SECRET, ISSUER, SCOPE, serve } from "./protocol.js";

const base = "https://yourapp.example/auth"; // Auth.js sends users to callback/keywicket below this address
let tokens;
const config = {
  providers: [{
    id: "keywicket",
    name: "Keywicket",
    type: "oauth",
    issuer: ISSUER,
    clientId: CLIENT_ID,
    clientSecret: CLIENT_SECRET,
    authorization: { url: `${ISSUER}/oauth/consent`, params: { scope: SCOPE } },
    token: `${ISSUER}/api/oauth/token`,
    userinfo: `${ISSUER}/api/user`,
    checks: ["pkce", "state"],
    client: { token_endpoint_auth_method: CLIENT_SECRET ? "client_secret_basic" : "none" },
    profile: () => ({ id: "user" }),
  }],
  callbacks: {
    jwt({ token, account }) {
      if (account) tokens = account;
      return token;
    },
  },
  secret: "of this run",
  trustHost: true,
  skipCSRFCheck,
};

const cookies = new Map();

// visit sends a browser's request to the app and returns the address to which the app redirects.
async function visit(path, options) {
  const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join("; ");
  const response = await Auth(new Request(`${base}/${path}`, { headers: { cookie }, ...options }), config);
  for (const line of response.headers.getSetCookie()) {
    const [, name, value] = line.match(/^([^=]*)=([^;]*)/);
    cookies.set(name, value);
  }
  return response.headers.get("location");
}

async function post(path, parameters) {
  const body = new URLSearchParams({ client_id: CLIENT_ID, client_secret: CLIENT_SECRET, ...parameters });
  const response = await fetch(`${ISSUER}/api/oauth/${path}`, { method: "POST", body });
  if (!response.ok) throw new Error(await response.text());
  return response;
}

await serve({
  authorize: () => visit("signin/keywicket", { method: "POST" }),
  async exchange(redirected) {
    const next = await visit(`callback/keywicket${new URL(redirected).search}`);
    if (!tokens) throw new Error(`not signed in: ${next}`);
    return tokens.access_token;
  },
  async call(path) {
    return (await fetch(ISSUER + path, { headers: { Authorization: `Bearer ${tokens.access_token}` } })).status;
  },
  async refresh() {
    const response = await post("token", { grant_type: "refresh_token", refresh_token: tokens.refresh_token });
    tokens = await response.json();
    return tokens.access_token;
  },
  async revoke() {
    await post("revoke", { token: tokens.refresh_token });
    return "revoked";
  },
});
