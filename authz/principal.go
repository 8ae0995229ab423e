package authz

import "strings"

// Kind is the kind of a principal's credential.
type Kind string

// The kinds of credentials in the API documents of VelaFlows and Velocity.
const (
	KindWorkspaceToken Kind = "workspace_token" // VelaFlows: prefix sk_live_ or sk_test_
	KindWorkspaceKey   Kind = "workspace_key"   // Velocity: prefix vel_
	KindPersonalKey    Kind = "personal_key"    // Velocity: prefix velu_
	KindOAuthToken     Kind = "oauth_token"     // Velocity: an OAuth 2.0 access token
	KindSession        Kind = "session"         // Velocity: the JWT of a Supabase session
)

// OfUser reports whether credentials of this kind belong to a user. Credentials of all other kinds belong to a workspace.
func (k Kind) OfUser() bool { return k == KindPersonalKey || k == KindOAuthToken || k == KindSession }

// isKey reports whether credentials of this kind are keys. A key has a prefix that identifies its kind.
func (k Kind) isKey() bool {
	return k == KindWorkspaceToken || k == KindWorkspaceKey || k == KindPersonalKey || k == KindOAuthToken
}

// Environment is the environment of a credential: live or sandbox.
type Environment string

// The environments of the VelaFlows document ("Token Format"); the Velocity API has only live.
const (
	Live    Environment = "live"
	Sandbox Environment = "sandbox"
)

// Principal is the identity that a valid credential proves.
type Principal struct {
	ID          string // the token's id, or the id of a session's user
	Kind        Kind
	API         string
	Environment Environment
	UserID      string // empty for a workspace's credential
	Scopes      []string
	SessionID   string // only for a session
	AAL         string // only for a session: the authenticator assurance level, such as aal1 or aal2; empty: unknown
	GrantID     string // only for an OAuth 2.0 access token: the id of the grant that a user gave to an app
	Attributes  Attributes
	// UserAttributes are the attributes of the user; empty for a workspace's credential.
	UserAttributes Attributes
}

// Lookup is the query of one check to the directory. It contains the digest of a key, or a session.
type Lookup struct {
	Kind      Kind // kind of the credential
	Digest    Digest
	Session   Session
	API       string
	Workspace WorkspaceRef
}

// Clone returns a copy of the look-up that can be retained: its strings do not share memory with the request.
func (l Lookup) Clone() Lookup {
	l.Session.ID, l.Session.UserID = strings.Clone(l.Session.ID), strings.Clone(l.Session.UserID)
	l.Workspace.ID, l.Workspace.Slug = strings.Clone(l.Workspace.ID), strings.Clone(l.Workspace.Slug)
	return l
}

// LookupResult is the result of a look-up.
type LookupResult struct {
	// Denial is empty for a valid credential. For an invalid credential, Denial is ReasonUnknown, ReasonExpired or ReasonRevoked,
	// and the other fields except Cache are not set.
	Denial    Reason
	Principal Principal
	// Workspace depends on the owner of the credential. A workspace's credential has the workspace that owns the credential, even if
	// the request names another workspace. A user's credential has the workspace that the request names, or none if the user is not
	// a member. If the request names no workspace, Workspace is zero. Exception: an app's access token that is granted exactly one
	// workspace then has this workspace.
	Workspace Membership
	// MFAEnrolled means that the user of a session has enrolled a second factor.
	MFAEnrolled bool
	// Cache is the source of the result; empty: unknown.
	Cache CacheResult
}

// CacheResult is the source of a look-up's result.
type CacheResult string

// The values of CacheResult. The staleness bound is the maximum time until a committed change takes effect.
const (
	CacheHit    CacheResult = "hit"    // from memory, within the staleness bound
	CacheMiss   CacheResult = "miss"   // from the database
	CacheBypass CacheResult = "bypass" // from the database, because the cache cannot prove its staleness bound
	CacheStale  CacheResult = "stale"  // from memory beyond the staleness bound, because the database is unreachable
)

// Membership is the workspace of a principal, with the principal's role in this workspace.
type Membership struct {
	ID, Slug string
	Role     string // the user's role; empty for a workspace's credential
	// Attributes are the attributes of the workspace.
	Attributes Attributes
}
