#!/usr/bin/env bash
# oauth2 5.0.0 (crates.io) with ureq: an error response of the token endpoint is no ServerResponse.
#
# RFC 6749 (section 5.2) gives errors of the token endpoint the status 400 and a JSON body with a field "error". With the HTTP client
# reqwest, the crate parses this body: RequestTokenError::ServerResponse. With the HTTP client ureq, it returns
# RequestTokenError::Request, because ureq reports the status 400 as an error of the request. So an app cannot tell invalid_grant,
# after which the user must sign in again, from a failed connection.
#
# Seen: for one response of one server, reqwest gives ServerResponse with invalid_grant, and ureq gives Request without it.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null; rm -rf "$dir"' EXIT
cd "$dir"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "try"
version = "0.0.0"
edition = "2021"
rust-version = "1.85"
resolver = "3"

[dependencies]
oauth2 = { version = "=5.0.0", default-features = false, features = ["reqwest-blocking", "ureq"] }

[profile.dev]
debug = false
TOML
cat > src/main.rs <<'RUST'
use oauth2::basic::BasicClient;
use oauth2::{reqwest, ureq, ClientId, RefreshToken, RequestTokenError, TokenUrl};

fn kind<E: std::error::Error, T: oauth2::ErrorResponse>(error: RequestTokenError<E, T>) -> &'static str {
    match error {
        RequestTokenError::ServerResponse(_) => "ServerResponse",
        RequestTokenError::Request(_) => "Request",
        RequestTokenError::Parse(..) => "Parse",
        RequestTokenError::Other(_) => "Other",
    }
}

fn main() {
    let address = std::env::args().nth(1).expect("the address of the token endpoint");
    let client = BasicClient::new(ClientId::new("c".into())).set_token_uri(TokenUrl::new(address).expect("a URL"));
    let token = RefreshToken::new("r".into());
    let request = || client.exchange_refresh_token(&token);

    let error = request().request(&reqwest::blocking::Client::new()).expect_err("reqwest: no error");
    println!("reqwest {} {}", error.to_string().contains("invalid_grant") || format!("{error:?}").contains("InvalidGrant"), kind(error));
    let error = request().request(&ureq::Agent::new()).expect_err("ureq: no error");
    println!("ureq {} {}", format!("{error:?}").to_lowercase().contains("invalid"), kind(error));
}
RUST
cat > server.py <<'PYTHON'
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"error": "invalid_grant"}'
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
cargo --version
cargo build --quiet
cargo tree --quiet --depth 1 --prefix none | grep -E '^(oauth2|reqwest|ureq) ' || true
python3 server.py > port &
server=$!
for _ in $(seq 100); do
  [ ! -s port ] || break
  sleep 0.1
done
./target/debug/try "http://127.0.0.1:$(cat port)/token" | tee out
[ "$(cat out)" = "$(printf 'reqwest true ServerResponse\nureq false Request')" ] || { echo "CHANGED"; exit 1; }
echo "as described: ureq hides invalid_grant"
