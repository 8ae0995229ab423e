package authz

import "errors"

// Attributes are data of a token, a workspace or a user that policies can read: the JSON text of one object. Empty text means {}.
// Attributes must not contain a secret.
type Attributes string

// JSON returns the text of the object.
func (a Attributes) JSON() string {
	if a == "" {
		return "{}"
	}
	return string(a)
}

// MarshalJSON returns the object itself, not a string that contains it.
func (a Attributes) MarshalJSON() ([]byte, error) { return []byte(a.JSON()), nil }

// UnmarshalJSON accepts one JSON object.
func (a *Attributes) UnmarshalJSON(text []byte) error {
	if text[0] != '{' {
		return errors.New("attributes must be one JSON object")
	}
	*a = Attributes(text)
	return nil
}
