package tokenimport

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/keywicket/keywicket/authz"
)

// validate returns the reason why a line is bad, or "". It checks the rules that need no database, and rejects text that Postgres
// does not accept.
func (im Import) validate(l Line) string {
	f := im.Format
	owner, otherOwner := l.Workspace, l.User
	if f.Kind.OfUser() {
		owner, otherOwner = otherOwner, owner
	}
	switch {
	case l.Key != "" && l.Digest != nil:
		return "the line has both a token and a digest: remove one of the two"
	case l.Key == "" && l.Digest == nil:
		return "the line has neither a token nor a digest"
	case l.Key != "" && l.Prefix != "":
		return "the line has a token and a prefix: remove the prefix, because only a line with a digest has a prefix"
	case l.Key != "" && !f.Accepts(l.Key):
		return fmt.Sprintf("no client can send this token: a token starts with %s, followed by at least 16 letters, "+
			"digits or -._~+/; the whole token has at most 512 characters", f.Prefix)
	case l.Digest != nil && !isVisiblePrefix(f, l.Prefix):
		return fmt.Sprintf("the prefix of a line with a digest must be %s, followed by at most %d characters of the key",
			f.Prefix, f.VisiblePrefix-len(f.Prefix))
	case owner == "" || otherOwner != "":
		return fmt.Sprintf("a %s belongs to a %[2]s: set the %[2]s, and leave the %[3]s empty", f.Kind, ownerOf(f.Kind), otherOf(f.Kind))
	case !storable(owner):
		return unknownOwner(f.Kind)
	case !storable(l.Name):
		return badName
	}
	for i, s := range l.Scopes {
		if !authz.ValidScope(s) {
			return fmt.Sprintf("scope %d is empty or has characters that a scope cannot have", i+1)
		}
	}
	return ""
}

// isVisiblePrefix reports whether a prefix can be the visible part of a key.
func isVisiblePrefix(f authz.CredentialFormat, prefix string) bool {
	const body = "0123456789abcdef" // the shortest body of a key
	return len(prefix) <= f.VisiblePrefix && f.Accepts(authz.Secret(prefix+body))
}

const badName = "the name is empty or has control characters"

func unknownOwner(k authz.Kind) string {
	if k.OfUser() {
		return "no user has this id or email"
	}
	return "no workspace has this id or slug"
}

func ownerOf(k authz.Kind) string {
	if k.OfUser() {
		return "user"
	}
	return "workspace"
}

func otherOf(k authz.Kind) string {
	if k.OfUser() {
		return "workspace"
	}
	return "user"
}

// storable reports whether Postgres accepts the text.
func storable(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }
