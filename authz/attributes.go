package authz

import "errors"

// Attributes are data of a token, a workspace or a user for policies to read: the JSON text of one object. Empty means {}. They
// are no place for a secret.
type Attributes string

// JSON returns the text of the object.
func (a Attributes) JSON() string {
	if a == "" {
		return "{}"
	}
	return string(a)
}

// MarshalJSON writes the object itself, not a string.
func (a Attributes) MarshalJSON() ([]byte, error) { return []byte(a.JSON()), nil }

// UnmarshalJSON reads what MarshalJSON writes.
func (a *Attributes) UnmarshalJSON(text []byte) error {
	if text[0] != '{' {
		return errors.New("attributes are one JSON object")
	}
	*a = Attributes(text)
	return nil
}
