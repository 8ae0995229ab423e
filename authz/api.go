package authz

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz/header"
	"github.com/keywicket/keywicket/authz/target"
	"github.com/keywicket/keywicket/authz/tokenlimit"
)

// API is the configuration of one API: which requests belong to the API, how these requests identify their workspace, and which
// credentials the API accepts. The configuration does not include the API's policy.
type API struct {
	// Hosts are the hosts of the API's requests, such as api.example.com or *.example.com, on any port. Default: none. An API
	// without hosts is selected by Envoy's configuration, or because it is the default API.
	Hosts     []string        `yaml:"hosts"`
	Workspace WorkspaceHeader `yaml:"workspace"`
	// Credentials are the formats of the API's keys. At least one is required.
	Credentials []CredentialFormat `yaml:"credentials"`
	Session     SessionFormat      `yaml:"session"`
	// Denials are the denials that the API's policy may return in addition to the built-in ones. Default: none.
	Denials []DeclaredDenial `yaml:"denials"`
	// UpstreamHeaders are the headers, in lower case, that the API's policy may set for the upstream. On an allowed request, these
	// headers come only from the policy: the sidecar removes a header that the policy does not set. Default: none.
	UpstreamHeaders []string `yaml:"upstream_headers"`
	// TokenLimits are the operator's limits on new tokens. Default: none.
	TokenLimits tokenlimit.Limits `yaml:"token_limits"`

	name             string // the API's key in the configuration
	resourceMetadata string // as in Answer
}

// WorkspaceHeader describes the request header that identifies the target workspace.
type WorkspaceHeader struct {
	// Header is the name of the header. [API.Complete] converts it to lower case.
	Header string `yaml:"header"`
	// By is how the header identifies the workspace: ByID or BySlug.
	By WorkspaceKey `yaml:"by"`
	// If Required is true, a request without the header gets no workspace, even if its credential belongs to one. The policy then
	// decides whether to deny the request.
	Required bool `yaml:"required"`
}

// WorkspaceKey is how a workspace header identifies a workspace.
type WorkspaceKey string

// The values of WorkspaceHeader.By.
const (
	ByID   WorkspaceKey = "id"
	BySlug WorkspaceKey = "slug"
)

// CredentialFormat describes the keys of one kind. The prefix of a key selects its format.
type CredentialFormat struct {
	// Kind is the kind of the keys: any except KindSession.
	Kind Kind `yaml:"kind"`
	// Prefix is the start of every key of this format. By convention it ends in an underscore. If several prefixes match, the
	// longest prefix applies.
	Prefix string `yaml:"prefix"`
	// Environment is the environment of keys with this prefix. Default: live.
	Environment Environment `yaml:"environment"`
	// VisiblePrefix is the number of characters at the start of a key that may be shown. The number includes the prefix. Default
	// and maximum: the length of the prefix plus 8.
	VisiblePrefix int `yaml:"visible_prefix"`
	// BodyLength is the length of the part after the prefix, including the checksum. BodyLength applies only to keys that keywicket
	// creates. Default and minimum: 38 characters.
	BodyLength int `yaml:"body_length"`
}

var prefixForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// Complete returns the API with its defaults, and validates the values. The text of an error starts with the invalid configuration
// key.
func (a API) Complete() (API, error) {
	a.Workspace.Header = strings.ToLower(a.Workspace.Header)
	a.Hosts = slices.Clone(a.Hosts)
	for i, host := range a.Hosts {
		a.Hosts[i] = strings.ToLower(host)
		if !target.ValidHostPattern(a.Hosts[i]) {
			return a, fmt.Errorf("hosts: %q is not valid: write a host without a port, such as api.example.com or *.example.com", host)
		}
	}
	switch {
	case a.Workspace.Header == "":
		return a, errors.New("workspace.header: set it to the request header that identifies the workspace")
	case !header.MayRead(a.Workspace.Header):
		return a, fmt.Errorf("workspace.header: %q is not a valid header name, or is a header that cannot identify a workspace", a.Workspace.Header)
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
			err = fmt.Errorf("prefix: %q occurs twice; a prefix must identify one kind", f.Prefix)
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
	if err := a.TokenLimits.Validate(); err != nil {
		return a, fmt.Errorf("token_limits.%w", err)
	}
	if err := header.CheckUpstream(a.UpstreamHeaders, a.Workspace.Header); err != nil {
		return a, fmt.Errorf("upstream_headers%w", err)
	}
	return a, nil
}

// Complete returns the format with its defaults, and validates it as [API.Complete] does.
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
	case !f.Kind.isKey():
		return f, fmt.Errorf("kind: %q is not one of workspace_token, workspace_key, personal_key, oauth_token", f.Kind)
	case !prefixForm.MatchString(f.Prefix):
		return f, fmt.Errorf("prefix: %q is not valid: write one or more letters, digits, _ or -", f.Prefix)
	case f.Environment != Live && f.Environment != Sandbox:
		return f, fmt.Errorf("environment: %q is neither live nor sandbox", f.Environment)
	case f.VisiblePrefix < len(f.Prefix) || f.VisiblePrefix > len(f.Prefix)+maxVisible:
		return f, fmt.Errorf("visible_prefix: %d is not between %d (the length of the prefix) and %d",
			f.VisiblePrefix, len(f.Prefix), len(f.Prefix)+maxVisible)
	case f.BodyLength < minBody || len(f.Prefix)+f.BodyLength > maxKey:
		return f, fmt.Errorf("body_length: %d is less than %d, or makes keys longer than %d bytes",
			f.BodyLength, minBody, maxKey)
	}
	return f, nil
}

// Format returns the format with exactly this prefix.
func (a API) Format(prefix string) (CredentialFormat, bool) {
	for _, f := range a.Credentials {
		if f.Prefix == prefix {
			return f, true
		}
	}
	return CredentialFormat{}, false
}

// OperatorFormats returns the formats of the keys that an operator creates: all except the issuer's access tokens.
func (a API) OperatorFormats() []CredentialFormat {
	return slices.DeleteFunc(slices.Clone(a.Credentials), func(f CredentialFormat) bool { return f.Kind == KindOAuthToken })
}

// MatchingAPIs calls the function matches for each API. It returns the sorted names of the APIs for which this function returns
// true. If the parameter `onlyName` is not empty, only the API with this name can match.
func MatchingAPIs(apis map[string]API, onlyName string, matches func(API) bool) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(apis)), func(name string) bool {
		return !matches(apis[name]) || onlyName != "" && onlyName != name
	})
}
