package envoy

import (
	"errors"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

var (
	errMalformed = errors.New("the CheckRequest is malformed")
	errText      = errors.New("the CheckRequest has a string that is not UTF-8")
	errDepth     = errors.New("the CheckRequest is nested too deeply")
)

// eachField calls the function read for every field that has a length: strings, bytes and messages. It skips numbers and groups,
// even if the schema defines the field as a string or a message, because proto.Unmarshal does the same. The parameter `depth` is
// the maximum depth of nested messages. eachField passes the remaining depth to read.
func eachField(message string, depth int, read func(number protowire.Number, value string, depth int) error) error {
	depth--
	if depth < 0 {
		return errDepth
	}
	for message != "" {
		tag, n := varint(message)
		if n < 0 || tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > uint64(protowire.MaxValidNumber) {
			return errMalformed
		}
		message = message[n:]
		number := protowire.Number(tag >> 3) //nolint:gosec // at most MaxValidNumber
		if kind := protowire.Type(tag & 7); kind != protowire.BytesType {
			if n = valueLength(number, kind, message); n < 0 {
				return errMalformed
			}
			message = message[n:]
			continue
		}
		size, n := varint(message)
		if n < 0 || size > uint64(len(message)-n) {
			return errMalformed
		}
		end := n + int(size) //nolint:gosec // at most the message's length
		if err := read(number, message[n:end], depth); err != nil {
			return err
		}
		message = message[end:]
	}
	return nil
}

// varint does the same as protowire.ConsumeVarint, but reads a string instead of bytes.
func varint(s string) (value uint64, n int) {
	if s != "" && s[0] < 0x80 {
		return uint64(s[0]), 1
	}
	for i := range min(len(s), 10) {
		value |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			if i == 9 && s[i] > 1 {
				return 0, -1 // more than 64 bits
			}
			return value, i + 1
		}
	}
	return 0, -1
}

// valueLength returns the length of a number or a group in bytes; negative if it is malformed.
func valueLength(number protowire.Number, kind protowire.Type, message string) int {
	n := -1
	switch kind {
	case protowire.VarintType:
		_, n = varint(message)
	case protowire.Fixed32Type:
		n = 4
	case protowire.Fixed64Type:
		n = 8
	case protowire.StartGroupType:
		n = groupLength(number, message)
	}
	if n > len(message) {
		return -1
	}
	return n
}

// groupLength returns the length of a group in bytes, including its end tag; negative if it is malformed.
func groupLength(number protowire.Number, message string) int {
	open := []protowire.Number{number} // field numbers of the groups that are still open
	position := 0
	for len(open) > 0 {
		tag, n := varint(message[position:])
		if n < 0 || tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > math.MaxInt32 {
			return -1
		}
		position += n
		number := protowire.Number(tag >> 3) //nolint:gosec // at most MaxInt32
		switch kind := protowire.Type(tag & 7); kind {
		case protowire.StartGroupType:
			if open = append(open, number); len(open) > protowire.DefaultRecursionLimit+1 {
				return -1
			}
		case protowire.EndGroupType:
			if number != open[len(open)-1] {
				return -1
			}
			open = open[:len(open)-1]
		case protowire.BytesType:
			size, n := varint(message[position:])
			if n < 0 || size > uint64(len(message)-position-n) {
				return -1
			}
			position += n + int(size) //nolint:gosec // at most the message's length
		default:
			if n = valueLength(number, kind, message[position:]); n < 0 {
				return -1
			}
			position += n
		}
	}
	return position
}

// checkUTF8 returns errText if the text is not UTF-8.
func checkUTF8(text string) error {
	if !utf8.ValidString(text) {
		return errText
	}
	return nil
}
