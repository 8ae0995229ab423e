package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/keywicket/keywicket/authz"
)

// Key identifies an object in the database that an answer depends on. The triggers of the migrations compute the same keys
// (keywicket.change_key): the first four bytes of the SHA-256 of "kind:name". If two objects have the same key, a change of one
// object also outdates the cached answers that depend on the other object. The only effect is one more query.
type Key uint32

// TokenKey returns the key of the token, or access token, with the digest. The token need not exist.
func TokenKey(d authz.Digest) Key { return key("token", hex.EncodeToString(d[:])) }

// SessionKey returns the key of the revocation of the session with the id. The revocation need not exist.
func SessionKey(id string) Key { return key("session", id) }

// CredentialKeys returns the keys of everything that the credential's own state depends on.
func CredentialKeys(l authz.Lookup) []Key {
	if l.Kind == authz.KindSession {
		return []Key{SessionKey(l.Session.ID), UserKey(l.Session.UserID)}
	}
	return []Key{TokenKey(l.Digest)}
}

// GrantKey returns the key of the grant with the id and of its workspaces.
func GrantKey(id string) Key { return key("grant", id) }

// AppKey returns the key of the app with the id.
func AppKey(id string) Key { return key("app", id) }

// WorkspaceKey returns the key of the workspace with the id. The workspace need not exist.
func WorkspaceKey(id string) Key { return key("workspace", id) }

// SlugKey returns the key of a slug. An answer with this key depends on which workspace has the slug.
func SlugKey(slug string) Key { return key("slug", slug) }

// UserKey returns the key of the user. The user's memberships and the revocation of all the user's sessions have the same key.
func UserKey(id string) Key { return key("user", id) }

func key(kind, name string) Key {
	sum := sha256.Sum256([]byte(kind + ":" + name))
	return Key(binary.BigEndian.Uint32(sum[:]))
}

// ParseKeys parses a change notice: keys of eight hexadecimal digits each, separated by spaces. A notice without keys is an
// error, because keywicket always sends at least one key.
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
		return nil, fmt.Errorf("not a change notice of keywicket: %.40q", notice)
	}
	return keys, nil
}
