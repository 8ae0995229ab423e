package authz

import "strings"

// Kind is how a principal authenticates.
type Kind string

// The kinds of the two API documents.
const (
	KindWorkspaceToken Kind = "workspace_token" // velaflows: sk_live_, sk_test_
	KindWorkspaceKey   Kind = "workspace_key"   // velocity: vel_
	KindPersonalKey    Kind = "personal_key"    // velocity: velu_
	KindOAuthToken     Kind = "oauth_token"     // velocity: an access token of OAuth 2.0
	KindSession        Kind = "session"         // velocity: a Supabase session's JWT
)

// OfUser reports whether credentials of this kind belong to a user; the others belong to a workspace.
func (k Kind) OfUser() bool { return k == KindPersonalKey || k == KindOAuthToken || k == KindSession }

// ofKey reports whether credentials of this kind are keys, told apart by a prefix.
func (k Kind) ofKey() bool {
	return k == KindWorkspaceToken || k == KindWorkspaceKey || k == KindPersonalKey || k == KindOAuthToken
}

// Environment is where a credential's requests go.
type Environment string

// The environments of the VelaFlows document ("Token Format"); Velocity has only live.
const (
	Live    Environment = "live"
	Sandbox Environment = "sandbox"
)

// Principal is who a good credential stands for.
type Principal struct {
	ID          string // of the token, or of a session's user
	Kind        Kind
	API         string
	Environment Environment
	UserID      string // empty for a workspace's credential
	Scopes      []string
	SessionID   string // of a session
	AAL         string // of a session: its authenticator assurance level, such as aal1 or aal2; empty: not known
	GrantID     string // of an access token of OAuth 2.0: what a user has granted to an app
	Attributes  Attributes
	// UserAttributes are those of the user; empty for a workspace's credential.
	UserAttributes Attributes
}

// Lookup is the question of one check to the directory: about the key with the digest, or about the session.
type Lookup struct {
	Kind      Kind // of the credential
	Digest    Digest
	Session   Session
	API       string
	Workspace WorkspaceRef
}

// Detached is the look-up without the memory of the request that it came from, to be kept.
func (l Lookup) Detached() Lookup {
	l.Session.ID, l.Session.UserID = strings.Clone(l.Session.ID), strings.Clone(l.Session.UserID)
	l.Workspace.ID, l.Workspace.Slug = strings.Clone(l.Workspace.ID), strings.Clone(l.Workspace.Slug)
	return l
}

// Found is the directory's answer.
type Found struct {
	// Denial is ReasonUnknown, ReasonExpired or ReasonRevoked; empty for a good credential. The other fields hold
	// nothing when it is set.
	Denial    Reason
	Principal Principal
	// Workspace is the credential's own one, whatever was asked for; or, for a credential of a user, the one that was
	// asked for, if the user is a member of it. Otherwise it is zero.
	Workspace Membership
	// MFAEnrolled says that the user of a session has a second factor.
	MFAEnrolled bool
	// Cache says where the answer is from. It may be empty.
	Cache CacheResult
}

// CacheResult says what a cache had to do with an answer.
type CacheResult string

// The results of a cache.
const (
	CacheHit    CacheResult = "hit"    // from memory, and true within the staleness bound
	CacheMiss   CacheResult = "miss"   // from the database
	CacheBypass CacheResult = "bypass" // from the database, because memory could not be believed
	CacheStale  CacheResult = "stale"  // from memory that could not be believed, because the database could not be asked
)

// Membership is a workspace as a principal has it.
type Membership struct {
	ID, Slug string
	Role     string // of the user; empty for a workspace's credential
	// Attributes of the workspace.
	Attributes Attributes
}
