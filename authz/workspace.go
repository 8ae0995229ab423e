package authz

// WorkspaceRef identifies a workspace by id or by slug. The zero value identifies no workspace.
type WorkspaceRef struct{ ID, Slug string }

// Workspace is the workspace in which a request acts. ID, Slug, Role and Attributes are set only if Granted is true, because a
// client must not get data of a workspace that the client cannot access.
type Workspace struct {
	// Requested means that the request has the workspace header, with any value.
	Requested bool
	// Granted means that the principal may act in the workspace, within the principal's scopes and role.
	Granted  bool
	ID, Slug string
	Role     string
	// Attributes are the attributes of the workspace.
	Attributes Attributes
}

const (
	idSize  = 24
	maxSlug = 63
)

// ValidWorkspaceID reports whether s has the form of a workspace id: 24 lower-case hex digits, a MongoDB ObjectId (see "Finding
// Your Workspace ID" in VelaFlows' API document).
func ValidWorkspaceID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == idSize
}

// ValidSlug reports whether s has the form of a workspace slug: 1 to 63 characters of a-z, 0-9 and -, not starting with -.
func ValidSlug(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0) {
			return false
		}
	}
	return s != "" && len(s) <= maxSlug
}

// requestedWorkspace is the content of the workspace header. If the header is repeated, empty or malformed, present is true and ref
// is zero.
type requestedWorkspace struct {
	present bool
	ref     WorkspaceRef
}

func (a *API) requestedWorkspace(header Fields) requestedWorkspace {
	value, n := header.Get(a.Workspace.Header)
	r := requestedWorkspace{present: n > 0}
	switch {
	case n != 1:
	case a.Workspace.By == ByID && ValidWorkspaceID(value):
		r.ref.ID = value
	case a.Workspace.By == BySlug && ValidSlug(value):
		r.ref.Slug = value
	}
	return r
}

// reference returns the header's value for the workspace: the workspace's id or slug. The value is empty if the workspace is not
// granted.
func (h WorkspaceHeader) reference(w Workspace) string {
	if h.By == ByID {
		return w.ID
	}
	return w.Slug
}

// grant returns the workspace in which the request acts. The workspace is granted if the header names the principal's workspace, or
// if the header is absent and not required.
func (r requestedWorkspace) grant(m Membership, required bool) Workspace {
	w := Workspace{Requested: r.present}
	switch {
	case m.ID == "":
	case !r.present:
		w.Granted = !required
	case r.ref.ID != "":
		w.Granted = r.ref.ID == m.ID
	case r.ref.Slug != "":
		w.Granted = r.ref.Slug == m.Slug
	}
	if w.Granted {
		w.ID, w.Slug, w.Role, w.Attributes = m.ID, m.Slug, m.Role, m.Attributes
	}
	return w
}
