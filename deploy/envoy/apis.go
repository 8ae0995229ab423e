package bootstrap

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// API is an API with its own listener.
type API struct {
	Name string
	// CheckHeaders are the request headers that Envoy sends with the check, in addition to those in the file.
	CheckHeaders []string
	// UpstreamHeaders are the headers that the sidecar may set or remove, in addition to those in the file.
	UpstreamHeaders []string
}

// template is the listener that RenderAPIs copies for an API that the file does not contain.
const template = "velaflows"

// RenderAPIs returns envoy.yaml with a listener for each of these APIs, and with these addresses. The listener of an API that the
// file does not contain is a copy of the listener velaflows. RenderAPIs removes the listeners of all other APIs, and comments.
func RenderAPIs(addresses Addresses, apis []API) ([]byte, error) {
	var root map[string]any
	if err := yaml.Unmarshal(file, &root); err != nil {
		return nil, fmt.Errorf("parse envoy.yaml: %w", err)
	}
	resources, ok := root["static_resources"].(map[string]any)
	if !ok {
		return nil, errors.New("envoy.yaml has no static_resources")
	}
	originals, err := yaml.Marshal(resources["listeners"])
	if err != nil {
		return nil, err
	}
	var listeners []any
	for _, api := range apis {
		listener, err := api.listener(originals)
		if err != nil {
			return nil, fmt.Errorf("render envoy.yaml: %w", err)
		}
		listeners = append(listeners, listener)
	}
	resources["listeners"] = listeners
	// By default, Envoy refuses an allow_expression with more than about two additional headers.
	root["layered_runtime"] = map[string]any{"layers": []any{map[string]any{
		"name": "apis", "static_layer": map[string]any{"re2.max_program_size.error_level": 10_000},
	}}}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	if err := encoder.Encode(root); err != nil {
		return nil, fmt.Errorf("render envoy.yaml: %w", err)
	}
	return render(out.Bytes(), addresses)
}

// listener returns the API's listener: a changed copy of one of the originals.
func (a API) listener(originals []byte) (any, error) {
	var all []map[string]any
	if err := yaml.Unmarshal(originals, &all); err != nil {
		return nil, err
	}
	var copied any
	original := ""
	for _, listener := range all {
		if name := listener["name"]; name == a.Name || name == template && original == "" {
			copied, original = listener, fmt.Sprint(name)
		}
	}
	if copied == nil {
		return nil, fmt.Errorf("there is no listener %q", template)
	}
	return a.changed(copied, original), nil
}

// changed returns the node with the API's name instead of the name `original`, and with the API's headers.
func (a API) changed(node any, original string) any {
	switch n := node.(type) {
	case string:
		if n == original {
			return a.Name
		}
	case []any:
		for i := range n {
			n[i] = a.changed(n[i], original)
		}
	case map[string]any:
		for key := range n {
			n[key] = a.changed(n[key], original)
		}
		if allowed, ok := n["allowed_headers"].(map[string]any); ok {
			patterns, _ := allowed["patterns"].([]any)
			for _, header := range a.CheckHeaders {
				patterns = append(patterns, map[string]any{"exact": header})
			}
			allowed["patterns"] = patterns
		}
		if rules, ok := n["allow_expression"].(map[string]any); ok {
			expressions := []string{fmt.Sprint(rules["regex"])}
			for _, header := range a.UpstreamHeaders {
				expressions = append(expressions, regexp.QuoteMeta(header))
			}
			rules["regex"] = strings.Join(expressions, "|")
		}
	}
	return node
}

// Paths returns the paths whose requests Envoy sends to the cluster, such as issuer or console. Some of them also stand for all paths
// below. A path occurs once, even if several listeners have it.
func Paths(cluster string) (paths []string, err error) {
	var document yaml.Node
	if err := yaml.Unmarshal(file, &document); err != nil {
		return nil, fmt.Errorf("parse envoy.yaml: %w", err)
	}
	routes := nodesAt(document.Content, "static_resources", "listeners", "filter_chains", "filters", "typed_config", "route_config",
		"virtual_hosts", "routes")
	for _, node := range routes {
		var r struct {
			Match struct {
				Path                string
				PathSeparatedPrefix string `yaml:"path_separated_prefix"`
			}
			Route struct{ Cluster string }
		}
		if err := node.Decode(&r); err != nil {
			return nil, fmt.Errorf("read the routes of envoy.yaml: %w", err)
		}
		if path := cmp.Or(r.Match.Path, r.Match.PathSeparatedPrefix); r.Route.Cluster == cluster && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}
