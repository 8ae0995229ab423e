// An MCP server and an MCP client, both with the unmodified @modelcontextprotocol/sdk.
//
// "node mcp.js server" prints the address of an MCP server that has one tool, and runs until its standard input ends.
//
// "node mcp.js client" logs in at the MCP server at the address SERVER, with the client id of a registered app. It prints the address
// that the user has to open. Then it reads from its standard input the address to which the browser was redirected. Then it calls the
// tool, and calls it again with an access token that the server refuses, so that the SDK refreshes the tokens. It exits with an error if a
// step fails.
import { createServer } from "node:http";
import { createInterface } from "node:readline/promises";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { UnauthorizedError } from "@modelcontextprotocol/sdk/client/auth.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";

const { ISSUER, SERVER, CLIENT_ID, REDIRECT_URI, SCOPE } = process.env;

function assert(condition, what) {
  if (!condition) throw new Error(what);
}

// The tool returns the caller's kind and user, from the headers that keywicket has set. Each request has its own stateless server.
async function serve(request, response) {
  const { "x-keywicket-kind": kind, "x-keywicket-user-id": user, authorization } = request.headers;
  const server = new McpServer({ name: "issues", version: "1.0.0" });
  server.registerTool("whoami", {}, () => ({ content: [{ type: "text", text: JSON.stringify({ kind, user, authorization }) }] }));
  const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined, enableJsonResponse: true });
  response.on("close", () => server.close());
  await server.connect(transport);
  await transport.handleRequest(request, response);
}

function runServer() {
  const server = createServer(serve);
  server.listen(0, "127.0.0.1", () => console.log(`127.0.0.1:${server.address().port}`));
  process.stdin.on("end", () => process.exit()).resume();
}

// Provider keeps everything in memory, as the SDK's own example does.
class Provider {
  redirectUrl = REDIRECT_URI;
  clientMetadata = { redirect_uris: [REDIRECT_URI], scope: SCOPE };
  clientInformation() { return { client_id: CLIENT_ID }; }
  tokens() { return this.saved; }
  saveTokens(tokens) { this.saved = tokens; }
  saveCodeVerifier(verifier) { this.verifier = verifier; }
  codeVerifier() { return this.verifier; }
  redirectToAuthorization(address) { this.authorize = address; }
}

async function runClient() {
  const provider = new Provider();
  const connect = async () => {
    const client = new Client({ name: "planner", version: "1.0.0" });
    const transport = new StreamableHTTPClientTransport(new URL(SERVER), { authProvider: provider });
    return { client, transport, error: await client.connect(transport).then(() => undefined, (error) => error) };
  };
  const first = await connect();
  assert(first.error instanceof UnauthorizedError, `without tokens: ${first.error}`);
  const asked = provider.authorize.searchParams;
  assert(provider.authorize.origin === ISSUER && asked.get("resource") === ISSUER && asked.get("code_challenge_method") === "S256",
    `the authorization request is ${provider.authorize}`);
  assert(asked.get("scope") === "issues:read", `the requested scope is ${asked.get("scope")}, not the scope of the challenge`);
  console.log(provider.authorize.href);
  const lines = createInterface({ input: process.stdin });
  const { value: redirected } = await lines[Symbol.asyncIterator]().next();
  lines.close();
  await first.transport.finishAuth(new URL(redirected).searchParams.get("code"));
  assert(provider.saved.scope === "issues:read", `the granted scope is ${provider.saved.scope}`);

  const whoami = async (client) => JSON.parse((await client.callTool({ name: "whoami" })).content[0].text);
  const second = await connect();
  assert(second.error === undefined, `with tokens: ${second.error}`);
  const seen = await whoami(second.client);
  assert(seen.kind === "oauth_token" && seen.user && !seen.authorization, `the server has received ${Object.keys(seen)}, the kind ${seen.kind}`);

  const { access_token, refresh_token } = provider.saved;
  provider.saved = { ...provider.saved, access_token: access_token.slice(0, -1) + (access_token.endsWith("A") ? "B" : "A") };
  assert((await whoami(second.client)).user === seen.user, "after the refresh, the tokens have another user");
  assert(provider.saved.access_token !== access_token && provider.saved.refresh_token !== refresh_token, "the tokens are not refreshed");
  await second.client.close();
}

await { server: runServer, client: runClient }[process.argv[2]]();
