// A client of the management API, with the types that openapi-typescript has generated:
// client.js URL TOKEN WORKSPACE create NAME SCOPE | list | revoke ID
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

declare const process: { argv: string[] };
const [url = "", token = "", workspace = "", command, first = "", second = ""] = process.argv.slice(2);

const client = createClient<paths>({
  baseUrl: url,
  headers: { Authorization: `Bearer ${token}`, "X-Workspace-Slug": workspace },
});

async function run(): Promise<string> {
  if (command === "create") {
    const { data, error } = await client.POST("/tokens", { body: { name: first, scopes: [second] } });
    return error ? `error ${error.error.code} ${error.error.reason}` : `${data.id} ${data.token}`;
  }
  if (command === "list") {
    const { data, error } = await client.GET("/tokens");
    return error ? `error ${error.error.code} ${error.error.reason}` : data.tokens.map((t) => t.id).join(" ");
  }
  const { data, error } = await client.DELETE("/tokens/{id}", { params: { path: { id: first } } });
  return error ? `error ${error.error.code} ${error.error.reason}` : data.status;
}

console.log(await run());
