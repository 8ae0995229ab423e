#!/usr/bin/env bash
# @auth/core 0.41.3 (Auth.js): a provider of the type "oauth" without the option "issuer" refuses every server that sends the
# parameter "iss" (RFC 9207).
#
# A provider of this type may give its endpoints one by one ("authorization", "token", "userinfo"), without "issuer". The library
# then compares "iss" in the redirect with https://authjs.dev. A server that follows RFC 9207 sends its own issuer, so the sign-in
# fails. The user is redirected to error=Configuration. The log has an OperationProcessingError about an unexpected "iss".
#
# Seen: with a server that sends "iss", the sign-in fails without the option "issuer" and succeeds with it. With a server that
# sends no "iss", it succeeds without the option.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{"private": true, "type": "module"}' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts @auth/core@0.41.3
cat > try.js <<'JS'
import http from "node:http";
import { readFileSync } from "node:fs";
import { Auth, skipCSRFCheck } from "@auth/core";

console.log("@auth/core", JSON.parse(readFileSync("node_modules/@auth/core/package.json")).version, "Node.js", process.version);

// An authorization server whose user has consented. It answers the requests for a token and for the user.
const server = http.createServer((request, response) => {
  request.resume();
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(request.url === "/token" ? { access_token: "a", token_type: "bearer" } : { id: "1" }));
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

// signIn returns the address to which the app redirects after the server's redirect, and the messages that the library logs.
async function signIn(options, iss) {
  const messages = [];
  const config = {
    providers: [{
      id: "example", name: "Example", type: "oauth", clientId: "c", clientSecret: "s",
      authorization: `${issuer}/authorize?scope=read`, token: `${issuer}/token`, userinfo: `${issuer}/user`,
      profile: (user) => ({ id: user.id }), ...options,
    }],
    secret: "secret", trustHost: true, skipCSRFCheck,
    logger: { error: (error) => messages.push(`${error.message} ${error.cause?.err?.message ?? ""}`) },
  };
  const base = "https://app.example/auth";
  const begun = await Auth(new Request(`${base}/signin/example`, { method: "POST" }), config);
  const cookie = begun.headers.getSetCookie().map((line) => line.split(";")[0]).join("; ");
  const query = new URLSearchParams({ code: "code" });
  const state = new URL(begun.headers.get("location")).searchParams.get("state");
  if (state) query.set("state", state);
  if (iss) query.set("iss", iss);
  const ended = await Auth(new Request(`${base}/callback/example?${query}`, { headers: { cookie } }), config);
  return { location: ended.headers.get("location"), messages: messages.join("\n") };
}

let changed = false;
function expect(name, result, failure) {
  const failed = /error=Configuration/.test(result.location) && /unexpected "iss"/.test(result.messages);
  const succeeded = !/error/.test(result.location);
  console.log(`${name}: redirected to ${result.location}`);
  if (failure ? !failed : !succeeded) {
    console.log("CHANGED:", result.messages);
    changed = true;
  }
}
expect("without the option, the server sends iss", await signIn({}, issuer), true);
expect("with the option, the server sends iss", await signIn({ issuer }, issuer), false);
expect("without the option, the server sends no iss", await signIn({}, undefined), false);
server.close();
process.exit(changed ? 1 : 0);
JS
node try.js
