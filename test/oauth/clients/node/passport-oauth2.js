// A web app that uses passport-oauth2 with Express. The library signs the user in and gets the first tokens. An app refreshes and
// revokes tokens by other means. This app uses the client of node-oauth inside the strategy, as passport-oauth2-refresh does.
import { once } from "node:events";
import express from "express";
import session from "express-session";
import passport from "passport";
import OAuth2Strategy from "passport-oauth2";
import { CLIENT_ID, CLIENT_SECRET, ISSUER, REDIRECT_URI, SCOPE, serve } from "./protocol.js";

let tokens;
const strategy = new OAuth2Strategy({
  authorizationURL: `${ISSUER}/oauth/consent`,
  tokenURL: `${ISSUER}/api/oauth/token`,
  clientID: CLIENT_ID,
  clientSecret: CLIENT_SECRET,
  callbackURL: REDIRECT_URI,
  scope: SCOPE,
  pkce: true,
  state: true,
}, (accessToken, refreshToken, profile, done) => {
  tokens = { accessToken, refreshToken };
  done(null, { name: "user" });
});
passport.use(strategy);

const app = express();
app.use(session({ secret: "of this run", resave: false, saveUninitialized: false }));
app.get("/login", passport.authenticate("oauth2", { session: false }));
app.get("/callback", passport.authenticate("oauth2", { session: false }), (request, response) => response.send("signed in"));
app.use((error, request, response, next) => response.status(500).send(`${error.message} ${JSON.stringify(error.oauthError ?? "")}`));
const server = app.listen(0, "127.0.0.1");
await once(server, "listening");
const address = `http://127.0.0.1:${server.address().port}`;

let cookie; // the cookie of the app's session
await serve({
  async authorize() {
    const response = await fetch(`${address}/login`, { redirect: "manual" });
    cookie = response.headers.get("set-cookie").split(";")[0];
    return response.headers.get("location");
  },
  async exchange(redirected) {
    const response = await fetch(`${address}/callback${new URL(redirected).search}`, { headers: { cookie } });
    if (!response.ok) throw new Error(await response.text());
    return tokens.accessToken;
  },
  async call(path) {
    return (await fetch(ISSUER + path, { headers: { Authorization: `Bearer ${tokens.accessToken}` } })).status;
  },
  refresh() {
    return new Promise((resolve, reject) => {
      strategy._oauth2.getOAuthAccessToken(tokens.refreshToken, { grant_type: "refresh_token" }, (error, accessToken, refreshToken) => {
        if (error) return reject(Object.assign(new Error(error.data), { name: String(error.statusCode) }));
        tokens = { accessToken, refreshToken };
        resolve(accessToken);
      });
    });
  },
  async revoke() {
    const body = new URLSearchParams({ token: tokens.refreshToken, client_id: CLIENT_ID, client_secret: CLIENT_SECRET });
    const response = await fetch(`${ISSUER}/api/oauth/revoke`, { method: "POST", body });
    return response.ok ? "revoked" : `error ${response.status}`;
  },
});
server.close();
