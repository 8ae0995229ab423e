package authz

import (
	"crypto/rand"
	"hash/crc32"
)

const (
	maxVisible   = 8                        // maximum number of characters of a key's body that may be shown
	minRandom    = 32                       // minimum number of random base62 characters: 190.5 bits
	checksumSize = 6                        // base62 characters, enough for a CRC-32
	minBody      = minRandom + checksumSize // minimum length of the body (the part after the prefix) of a key that keywicket creates
	base62       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// NewKey returns a new key: the prefix, a base62 text of at least 190 random bits, and a checksum of the preceding characters.
func (f CredentialFormat) NewKey() Secret {
	key := make([]byte, 0, len(f.Prefix)+f.BodyLength)
	key = append(key, f.Prefix...)
	key = appendRandom(key, f.BodyLength-checksumSize)
	return Secret(appendChecksum(key))
}

// Visible returns the part of a key that may be shown and logged.
func (f CredentialFormat) Visible(key Secret) string {
	return string(key[:min(f.VisiblePrefix, len(key))])
}

// appendRandom appends n random base62 characters. Every character has the same probability, because appendRandom rejects random
// bytes of 248 (4 × 62) and more.
func appendRandom(key []byte, n int) []byte {
	random := make([]byte, 2*n)
	for n > 0 {
		rand.Read(random) // never fails
		for _, b := range random {
			if n > 0 && b < 4*62 {
				key = append(key, base62[b%62])
				n--
			}
		}
	}
	return key
}

func appendChecksum(key []byte) []byte {
	sum := crc32.ChecksumIEEE(key)
	var digits [checksumSize]byte
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = base62[sum%62]
		sum /= 62
	}
	return append(key, digits[:]...)
}
