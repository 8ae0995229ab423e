package authz

import "github.com/keywicket/keywicket/authz/base62"

const (
	maxVisible = 8                               // maximum number of characters of a key's body that may be shown
	minRandom  = 32                              // minimum number of random base62 characters: 190.5 bits
	minBody    = minRandom + base62.ChecksumSize // minimum length of the body (the part after the prefix) of a key that keywicket creates
)

// NewKey returns a new key: the prefix, a base62 text of at least 190 random bits, and a checksum of the preceding characters.
func (f CredentialFormat) NewKey() Secret {
	key := make([]byte, 0, len(f.Prefix)+f.BodyLength)
	key = append(key, f.Prefix...)
	key = base62.AppendRandom(key, f.BodyLength-base62.ChecksumSize)
	return Secret(base62.AppendChecksum(key))
}

// Visible returns the part of a key that may be shown and logged.
func (f CredentialFormat) Visible(key Secret) string {
	return string(key[:min(f.VisiblePrefix, len(key))])
}
