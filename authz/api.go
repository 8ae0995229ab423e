package authz

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// API is what the authorizer must know of an API beside its policy: which requests are for it, how they name their
// workspace, and which credentials it takes.
type API struct {
	// Hosts of the API's requests, such as api.example.com or *.example.com, on any port. Default: none; then Envoy's
	// configuration says which API a request is for.
	Hosts       []string           `yaml:"hosts"`
	Workspace   WorkspaceHeader    `yaml:"workspace"`
	Credentials []CredentialFormat `yaml:"credentials"`
	Session     SessionFormat      `yaml:"session"`
	// Denials are the answers that its policy may give beside the built-in ones. Default: none.
	Denials []Denial `yaml:"denials"`
	// UpstreamHeaders are the headers that its policy may set for the upstream, in lower case. Every allowed request has
	// them from the policy, or does not have them. Default: none.
	UpstreamHeaders []string `yaml:"upstream_headers"`

	name string // in the configuration
}

// WorkspaceHeader says where a request names the workspace it targets.
type WorkspaceHeader struct {
	// Header's name; it is kept in lower case.
	Header string `yaml:"header"`
	// By is ByID or BySlug.
	By By `yaml:"by"`
	// Required: a request without the header acts in no workspace, even if its credential belongs to one.
	Required bool `yaml:"required"`
}

// By is how a workspace header names a workspace.
type By string

// The two ways.
const (
	ByID   By = "id"
	BySlug By = "slug"
)

// CredentialFormat describes the keys of one kind. The prefix tells them apart.
type CredentialFormat struct {
	Kind Kind `yaml:"kind"`
	// Prefix that a key starts with, ending in an underscore by custom. The longest prefix that matches decides.
	Prefix string `yaml:"prefix"`
	// Environment of keys with this prefix. Default: live.
	Environment Environment `yaml:"environment"`
	// VisiblePrefix is how many characters of a key may be shown, prefix included. Default: 8 beyond the prefix, which
	// is also the most.
	VisiblePrefix int `yaml:"visible_prefix"`
	// BodyLength is how many characters follow the prefix of a key made here, checksum included. Default and least: 38.
	BodyLength int `yaml:"body_length"`
}

var prefixForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// Complete fills the defaults and checks the rest. Errors start with the key that they are about.
func (a API) Complete() (API, error) {
	a.Workspace.Header = strings.ToLower(a.Workspace.Header)
	a.Hosts = slices.Clone(a.Hosts)
	for i, host := range a.Hosts {
		a.Hosts[i] = strings.ToLower(host)
		if !hostPattern.MatchString(a.Hosts[i]) {
			return a, fmt.Errorf("hosts: %q is not a host without a port, such as api.example.com or *.example.com", host)
		}
	}
	switch {
	case a.Workspace.Header == "":
		return a, errors.New("workspace.header: name the request header that names a workspace")
	case !validHeader(a.Workspace.Header):
		return a, fmt.Errorf("workspace.header: %q is not the name of a header that can name a workspace", a.Workspace.Header)
	case a.Workspace.By != ByID && a.Workspace.By != BySlug:
		return a, fmt.Errorf("workspace.by: %q is neither id nor slug", a.Workspace.By)
	case len(a.Credentials) == 0:
		return a, errors.New("credentials: none is configured")
	}
	formats := make([]CredentialFormat, len(a.Credentials))
	seen := make(map[string]bool, len(a.Credentials))
	for i, f := range a.Credentials {
		f, err := f.Complete()
		if err == nil && seen[f.Prefix] {
			err = fmt.Errorf("prefix: %q is there twice; nothing else tells two kinds apart", f.Prefix)
		}
		if err != nil {
			return a, fmt.Errorf("credentials[%d].%w", i, err)
		}
		seen[f.Prefix] = true
		formats[i] = f
	}
	a.Credentials = formats
	var err error
	if a.Session, err = a.Session.Complete(); err != nil {
		return a, fmt.Errorf("session.%w", err)
	}
	if a.Denials, err = completeDenials(a.Denials); err != nil {
		return a, err
	}
	return a, a.checkUpstreamHeaders()
}

// Complete fills the defaults and checks the rest, as [API.Complete] does.
func (f CredentialFormat) Complete() (CredentialFormat, error) {
	if f.Environment == "" {
		f.Environment = Live
	}
	if f.VisiblePrefix == 0 {
		f.VisiblePrefix = len(f.Prefix) + maxVisible
	}
	if f.BodyLength == 0 {
		f.BodyLength = minBody
	}
	switch {
	case !f.Kind.ofKey():
		return f, fmt.Errorf("kind: %q is none of workspace_token, workspace_key, personal_key, oauth_token", f.Kind)
	case !prefixForm.MatchString(f.Prefix):
		return f, fmt.Errorf("prefix: %q has characters other than letters, digits, _ and -", f.Prefix)
	case f.Environment != Live && f.Environment != Sandbox:
		return f, fmt.Errorf("environment: %q is neither live nor sandbox", f.Environment)
	case f.VisiblePrefix < len(f.Prefix) || f.VisiblePrefix > len(f.Prefix)+maxVisible:
		return f, fmt.Errorf("visible_prefix: %d is not between the prefix's own %d characters and %d",
			f.VisiblePrefix, len(f.Prefix), len(f.Prefix)+maxVisible)
	case f.BodyLength < minBody || len(f.Prefix)+f.BodyLength > maxKey:
		return f, fmt.Errorf("body_length: %d is less than %d, or makes keys longer than %d bytes",
			f.BodyLength, minBody, maxKey)
	}
	return f, nil
}

// validHeader refuses what is no header's name, headers that carry credentials, and the sidecar's own.
func validHeader(name string) bool {
	return httpguts.ValidHeaderFieldName(name) && !slices.Contains(secretHeaders, name) &&
		!strings.HasPrefix(name, "x-keywicket-")
}

// Format finds the format with exactly this prefix.
func (a API) Format(prefix string) (CredentialFormat, bool) {
	for _, f := range a.Credentials {
		if f.Prefix == prefix {
			return f, true
		}
	}
	return CredentialFormat{}, false
}
