package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/keywicket/keywicket/authz"
)

// DependencyKey identifies an object in the database that an answer depends on. It is not related to API keys. The triggers of
// the migrations compute the same keys (keywicket.change_key): the first four bytes of the SHA-256 of "kind:name". Two objects
// may have the same key by chance. Then a change of one object also makes answers outdated that depend on the other object. The
// only effect is an unnecessary query.
type DependencyKey uint32

// TokenKey returns the key of the token or access token with the digest. The token need not exist.
func TokenKey(d authz.Digest) DependencyKey { return key("token", hex.EncodeToString(d[:])) }

// SessionKey returns the key of the revocation of a session. An answer with this key depends on whether the session is revoked.
func SessionKey(id string) DependencyKey { return key("session", id) }

// CredentialKeys returns the keys that are known before the load: the key of a token, or the keys of a session and of its user.
func CredentialKeys(l authz.Lookup) []DependencyKey {
	if l.Kind == authz.KindSession {
		return []DependencyKey{SessionKey(l.Session.ID), UserKey(l.Session.UserID)}
	}
	return []DependencyKey{TokenKey(l.Digest)}
}

// GrantKey returns the key of a grant. Changes of the workspaces of a grant have the same key.
func GrantKey(id string) DependencyKey { return key("grant", id) }

// AppKey returns the key of the app with the id.
func AppKey(id string) DependencyKey { return key("app", id) }

// WorkspaceKey returns the key of the workspace with the id. The workspace need not exist.
func WorkspaceKey(id string) DependencyKey { return key("workspace", id) }

// SlugKey returns the key of a slug. An answer with this key depends on which workspace has the slug.
func SlugKey(slug string) DependencyKey { return key("slug", slug) }

// UserKey returns the key of a user. Changes of the user's memberships, and the revocation of all sessions of the user, have the
// same key.
func UserKey(id string) DependencyKey { return key("user", id) }

func key(kind, name string) DependencyKey {
	sum := sha256.Sum256([]byte(kind + ":" + name))
	return DependencyKey(binary.BigEndian.Uint32(sum[:]))
}

// ParseKeys parses the text of a notification or of a row of the log: keys of eight hexadecimal digits each, separated by spaces.
// A text without keys is an error, because keywicket always writes at least one key.
func ParseKeys(notice string) ([]DependencyKey, error) {
	var keys []DependencyKey
	for word := range strings.FieldsSeq(notice) {
		b, err := hex.DecodeString(word)
		if err != nil || len(b) != 4 {
			keys = nil
			break
		}
		keys = append(keys, DependencyKey(binary.BigEndian.Uint32(b)))
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("the text is not a list of change keys: %.40q", notice)
	}
	return keys, nil
}
