package session

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/keywicket/keywicket/internal/strictjson"
)

// keySet is the result of one fetch. It is immutable.
type keySet struct {
	keys      map[keyName]crypto.PublicKey
	fetchedAt time.Time
	// ambiguous contains the ids that several different keys of the same algorithm have. The keyring uses none of these keys.
	ambiguous []string
}

// keyName identifies a key in a set. The id alone is not sufficient, because keys of different types may have the same id (RFC
// 7517, section 4.5).
type keyName struct{ id, algorithm string }

// keepPointers replaces each key that the previous set also contains by the pointer from the previous set. So an unchanged key
// keeps its pointer, and a comparison of pointers is sufficient.
func (s *keySet) keepPointers(previous *keySet) {
	if previous == nil {
		return
	}
	for name, k := range s.keys {
		if old := previous.keys[name]; equal(old, k) {
			s.keys[name] = old
		}
	}
}

func equal(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// parseKeys returns the public keys that may verify a session's token (RFC 7517, section 5). Such a key has an id, is for
// signatures, and is on P-256 or has an RSA modulus of at least minRSA bits. parseKeys skips all other keys, because a set may
// contain keys for other purposes. It also skips a public key if the set contains the private key of the same pair. If different
// keys have the same id and the same algorithm, they are ambiguous, and parseKeys skips only these keys. A set without a list of
// keys is an error.
func parseKeys(body []byte) (*keySet, error) {
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &document); err != nil || document.Keys == nil {
		return nil, errors.New("the response is not a JWK set")
	}
	keys := make(map[keyName]crypto.PublicKey)
	ambiguous := make(map[keyName]bool)
	var compromised []crypto.PublicKey // public keys of pairs whose private key the set contains; any client can sign with this private key
	for _, raw := range document.Keys {
		m, ok := readKey(raw)
		if !ok {
			continue
		}
		if m.D != "" {
			if private, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{}); err == nil {
				if signer, ok := private.Key().(crypto.Signer); ok {
					compromised = append(compromised, signer.Public())
				}
			}
			continue
		}
		if m.KID == "" || m.USE != "" && m.USE != jwkset.UseSig || len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify) {
			continue
		}
		parsed, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil {
			continue
		}
		name := keyName{id: m.KID}
		switch public := parsed.Key().(type) {
		case *ecdsa.PublicKey:
			if public.Curve != elliptic.P256() {
				continue
			}
			name.algorithm = jwt.SigningMethodES256.Alg()
		case *rsa.PublicKey:
			if public.N.BitLen() < minRSA {
				continue
			}
			name.algorithm = jwt.SigningMethodRS256.Alg()
		default: // a published secret, or a type of key that is not supported
			continue
		}
		if alg := m.ALG.String(); alg != "" && alg != name.algorithm {
			continue
		}
		if other, ok := keys[name]; ok && !equal(other, parsed.Key()) {
			ambiguous[name] = true
		}
		keys[name] = parsed.Key()
	}
	maps.DeleteFunc(keys, func(_ keyName, k crypto.PublicKey) bool {
		return slices.ContainsFunc(compromised, func(p crypto.PublicKey) bool { return equal(p, k) })
	})
	set := &keySet{keys: keys}
	for name := range ambiguous {
		delete(keys, name)
		set.ambiguous = append(set.ambiguous, name.id)
	}
	slices.Sort(set.ambiguous)
	set.ambiguous = slices.Compact(set.ambiguous)
	return set, nil
}

// readKey reads the members of a JWK that this package uses (RFC 7517, section 4; RFC 7518, section 6). The names of members are
// case-sensitive. A name that occurs twice is an error.
func readKey(raw json.RawMessage) (m jwkset.JWKMarshal, ok bool) {
	members, err := strictjson.Object(raw)
	if err != nil {
		return m, false
	}
	maps.DeleteFunc(members, func(name string, _ json.RawMessage) bool {
		return !slices.Contains([]string{"kty", "use", "key_ops", "alg", "kid", "crv", "x", "y", "n", "e", "d", "p", "q", "dp", "dq", "qi"}, name)
	})
	exact, err := json.Marshal(members)
	return m, err == nil && json.Unmarshal(exact, &m) == nil
}

// find returns the key with the name. If the set does not contain the key, or is nil, find returns nil.
func (s *keySet) find(name keyName) crypto.PublicKey {
	if s == nil {
		return nil
	}
	return s.keys[name]
}
