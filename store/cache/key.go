package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/keywicket/keywicket/authz"
)

// Key stands for something in the database that an answer depends on. The triggers of the migrations make the same keys
// (keywicket.change_key): the first four bytes of the SHA-256 of "kind:name". Two things that share a key are forgotten
// together, which costs a query and nothing else.
type Key uint32

// TokenKey is of the token, or access token, that has the digest, there or not.
func TokenKey(d authz.Digest) Key { return key("token", hex.EncodeToString(d[:])) }

// SessionKey is of the revocation of the session with the id, there or not.
func SessionKey(id string) Key { return key("session", id) }

// CredentialKeys are of what the credential's own state depends on.
func CredentialKeys(l authz.Lookup) []Key {
	if l.Kind == authz.KindSession {
		return []Key{SessionKey(l.Session.ID), UserKey(l.Session.UserID)}
	}
	return []Key{TokenKey(l.Digest)}
}

// GrantKey is of the grant with the id, and of its workspaces.
func GrantKey(id string) Key { return key("grant", id) }

// AppKey is of the app with the id.
func AppKey(id string) Key { return key("app", id) }

// WorkspaceKey is of the workspace with the id, there or not.
func WorkspaceKey(id string) Key { return key("workspace", id) }

// SlugKey is of whichever workspace has the slug.
func SlugKey(slug string) Key { return key("slug", slug) }

// UserKey is of the user, of all memberships of it, and of the revocation of its sessions.
func UserKey(id string) Key { return key("user", id) }

func key(kind, name string) Key {
	sum := sha256.Sum256([]byte(kind + ":" + name))
	return Key(binary.BigEndian.Uint32(sum[:]))
}

// ParseKeys reads a notice: keys as eight hexadecimal digits each, with spaces between them. At least one: whoever
// sends a notice of nothing means something else by it.
func ParseKeys(notice string) ([]Key, error) {
	var keys []Key
	for word := range strings.FieldsSeq(notice) {
		b, err := hex.DecodeString(word)
		if err != nil || len(b) != 4 {
			keys = nil
			break
		}
		keys = append(keys, Key(binary.BigEndian.Uint32(b)))
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("a notice that nobody here sends: %.40q", notice)
	}
	return keys, nil
}
