// Package base62 creates the random part and the checksum of a key, as letters and digits.
package base62

import (
	"crypto/rand"
	"hash/crc32"
)

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// ChecksumSize is the number of characters of a checksum, enough for a CRC-32.
const ChecksumSize = 6

// AppendRandom appends n random characters. Every character has the same probability, because AppendRandom rejects random bytes of
// 248 (4 × 62) and more.
func AppendRandom(key []byte, n int) []byte {
	random := make([]byte, 2*n)
	for n > 0 {
		rand.Read(random) // never fails
		for _, b := range random {
			if n > 0 && b < 4*62 {
				key = append(key, digits[b%62])
				n--
			}
		}
	}
	return key
}

// AppendChecksum appends the CRC-32 of the key.
func AppendChecksum(key []byte) []byte {
	sum := crc32.ChecksumIEEE(key)
	var text [ChecksumSize]byte
	for i := len(text) - 1; i >= 0; i-- {
		text[i] = digits[sum%62]
		sum /= 62
	}
	return append(key, text[:]...)
}
