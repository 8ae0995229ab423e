// The protocol between a client and the Go test: see README.md in the parent folder.
import { createInterface } from "node:readline";

export const { ISSUER, CLIENT_ID, CLIENT_SECRET, REDIRECT_URI, SCOPE } = process.env;

// serve calls the method of the client that each command names, and prints what the method returns.
export async function serve(client) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, ...argument] = line.split(" ");
    let answer;
    try {
      answer = await client[command](...argument);
    } catch (error) {
      answer = `error ${describe(error)}`;
    }
    console.log(String(answer).replaceAll("\n", " "));
  }
}

// describe returns the message of an error, and what libraries add to it: the server's response, or the cause.
function describe(error) {
  const more = error.error ?? error.data?.payload ?? error.oauthError ?? error.cause?.message;
  return `${error.name}: ${error.message} ${more === undefined ? "" : JSON.stringify(more)}`;
}
