// Package bootstrap contains envoy.yaml, the configuration that Envoy starts with. Operators copy this file, the demo uses it
// and the tests attack it. "Bootstrap" is Envoy's term for this configuration.
//
// Only the addresses differ between these uses. Render replaces the addresses and leaves everything else unchanged, so the
// tests cover what operators use. RenderAPIs is for a demo with other APIs.
package bootstrap

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed envoy.yaml
var file []byte

// Addresses are the addresses of the admin interface, the listeners and the clusters. Each address has the form host:port. The keys
// of the maps are the names of listeners and clusters. The hosts must be IP addresses, because the clusters are static.
type Addresses struct {
	Admin     string            // Envoy's admin interface; empty: the address in the file
	Listeners map[string]string // velaflows and velocity; for RenderAPIs, the names of the APIs
	Clusters  map[string]string // keywicket, issuer, console, upstream_live and upstream_sandbox; several endpoints: "1.1.1.1:1,2.2.2.2:2"
}

// Render returns envoy.yaml with these addresses. A listener or cluster that is missing in the argument keeps its address from the
// file. A name that the file does not contain is an error. For each address of a cluster, the cluster gets a copy of the file's
// endpoint.
func Render(addresses Addresses) ([]byte, error) { return render(file, addresses) }

func render(text []byte, addresses Addresses) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("parse envoy.yaml: %w", err)
	}
	for name, list := range addresses.Clusters {
		addEndpoints(&document, name, strings.Count(list, ",")+1)
	}
	listeners, clusters := maps.Clone(addresses.Listeners), maps.Clone(addresses.Clusters)
	err := eachAddress(&document, func(kind, name string, socket *yaml.Node) error {
		var address string
		switch kind {
		case "admin":
			address = addresses.Admin
		case "listener":
			address = listeners[name]
			delete(listeners, name)
		case "cluster":
			first, others, more := strings.Cut(clusters[name], ",")
			address = first
			delete(clusters, name)
			if more {
				clusters[name] = others
			}
		}
		if address == "" {
			return nil
		}
		return setAddress(socket, address)
	})
	if err != nil {
		return nil, fmt.Errorf("render envoy.yaml: %w", err)
	}
	for name := range listeners {
		return nil, fmt.Errorf("render envoy.yaml: there is no listener %q", name)
	}
	for name := range clusters {
		return nil, fmt.Errorf("render envoy.yaml: there is no cluster %q", name)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return nil, fmt.Errorf("render envoy.yaml: %w", err)
	}
	return out.Bytes(), nil
}

// Read returns the addresses in any Envoy configuration with static resources. A program that runs Envoy uses them to
// wait until Envoy listens.
func Read(config []byte) (Addresses, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(config, &document); err != nil {
		return Addresses{}, fmt.Errorf("parse Envoy's configuration: %w", err)
	}
	addresses := Addresses{Listeners: map[string]string{}, Clusters: map[string]string{}}
	err := eachAddress(&document, func(kind, name string, socket *yaml.Node) error {
		address, err := readAddress(socket)
		if err != nil {
			return err
		}
		switch kind {
		case "admin":
			addresses.Admin = address
		case "listener":
			addresses.Listeners[name] = address
		case "cluster":
			if before := addresses.Clusters[name]; before != "" {
				address = before + "," + address
			}
			addresses.Clusters[name] = address
		}
		return nil
	})
	if err != nil {
		return Addresses{}, fmt.Errorf("read Envoy's configuration: %w", err)
	}
	return addresses, nil
}

// addEndpoints copies the first endpoint of the cluster until the cluster has n endpoints.
func addEndpoints(document *yaml.Node, cluster string, n int) {
	for _, c := range nodesAt(document.Content, "static_resources", "clusters") {
		if names := nodesAt([]*yaml.Node{c}, "name"); len(names) == 0 || names[0].Value != cluster {
			continue
		}
		for _, locality := range nodesAt([]*yaml.Node{c}, "load_assignment", "endpoints") {
			for pair := range slices.Chunk(locality.Content, 2) {
				for pair[0].Value == "lb_endpoints" && len(pair[1].Content) < n {
					pair[1].Content = append(pair[1].Content, clone(pair[1].Content[0]))
				}
			}
		}
	}
}

func clone(node *yaml.Node) *yaml.Node {
	c := *node
	c.Content = nil
	for _, child := range node.Content {
		c.Content = append(c.Content, clone(child))
	}
	return &c
}

// eachAddress calls visit with every socket_address of the admin interface, the listeners and the clusters' endpoints.
func eachAddress(document *yaml.Node, visit func(kind, name string, socket *yaml.Node) error) error {
	if len(document.Content) == 0 {
		return errors.New("it is empty")
	}
	root := document.Content[0]
	places := []struct {
		kind  string
		items []*yaml.Node
		path  []string
	}{
		{"admin", nodesAt([]*yaml.Node{root}, "admin"), []string{"address", "socket_address"}},
		{"listener", nodesAt([]*yaml.Node{root}, "static_resources", "listeners"), []string{"address", "socket_address"}},
		{"cluster", nodesAt([]*yaml.Node{root}, "static_resources", "clusters"),
			[]string{"load_assignment", "endpoints", "lb_endpoints", "endpoint", "address", "socket_address"}},
	}
	for _, place := range places {
		for _, item := range place.items {
			name := place.kind
			for _, n := range nodesAt([]*yaml.Node{item}, "name") {
				name = n.Value
			}
			for _, socket := range nodesAt([]*yaml.Node{item}, place.path...) {
				if err := visit(place.kind, name, socket); err != nil {
					return fmt.Errorf("%s %s: %w", place.kind, name, err)
				}
			}
		}
	}
	return nil
}

// nodesAt returns the nodes at the path of keys. If a node on the path is a list, nodesAt follows every item of the list.
func nodesAt(nodes []*yaml.Node, keys ...string) []*yaml.Node {
	for _, key := range keys {
		var next []*yaml.Node
		for _, node := range nodes {
			if node.Kind != yaml.MappingNode {
				continue
			}
			for pair := range slices.Chunk(node.Content, 2) {
				switch value := pair[1]; {
				case pair[0].Value != key:
				case value.Kind == yaml.SequenceNode:
					next = append(next, value.Content...)
				default:
					next = append(next, value)
				}
			}
		}
		nodes = next
	}
	return nodes
}

func readAddress(socket *yaml.Node) (string, error) {
	var s struct {
		Address string `yaml:"address"`
		Port    int    `yaml:"port_value"`
	}
	if err := socket.Decode(&s); err != nil {
		return "", err
	}
	return net.JoinHostPort(s.Address, strconv.Itoa(s.Port)), nil
}

func setAddress(socket *yaml.Node, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if net.ParseIP(host) == nil {
		return fmt.Errorf("address %s: the host has to be an IP address", address)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("address %s: the port has to be a number up to 65535", address)
	}
	for _, n := range nodesAt([]*yaml.Node{socket}, "address") {
		n.Value = host
	}
	for _, n := range nodesAt([]*yaml.Node{socket}, "port_value") {
		n.Value = strconv.FormatUint(number, 10)
	}
	return nil
}
