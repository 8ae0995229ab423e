package operator

import (
	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/attributes"
)

// attributesFlag is the value of --attributes. The parser of the command line validates it.
type attributesFlag authz.Attributes

// UnmarshalText implements [encoding.TextUnmarshaler].
func (f *attributesFlag) UnmarshalText(text []byte) error {
	a, err := attributes.Parse(string(text))
	*f = attributesFlag(a)
	return err
}

// newAttributes is the flag of commands that create an object.
type newAttributes struct {
	Attributes attributesFlag `help:"Attributes for policies: a JSON object. It must not contain secrets, because the list commands show it." placeholder:"JSON"`
}

// setAttributes are the flags of commands that replace the attributes of an object.
type setAttributes struct {
	Attributes attributesFlag `help:"Attributes for policies: a JSON object. It replaces the current object. It must not contain secrets, because the list commands show it." required:"" placeholder:"JSON"`
	waitFlag
}
