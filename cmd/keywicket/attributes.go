package main

import (
	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/registry"
)

// attributesFlag is the value of --attributes. It is validated while the command line is parsed.
type attributesFlag authz.Attributes

// UnmarshalText implements [encoding.TextUnmarshaler].
func (f *attributesFlag) UnmarshalText(text []byte) error {
	a, err := registry.ParseAttributes(string(text))
	*f = attributesFlag(a)
	return err
}

// newAttributes is the flag of commands that create an object.
type newAttributes struct {
	Attributes attributesFlag `help:"Attributes for policies: a JSON object. Lists show them: do not put secrets there." placeholder:"JSON"`
}

// setAttributes are the flags of commands that replace the attributes of an object.
type setAttributes struct {
	Attributes attributesFlag `help:"Attributes for policies: a JSON object. It replaces the current one. Lists show it: do not put secrets there." required:"" placeholder:"JSON"`
	waitFlag
}
