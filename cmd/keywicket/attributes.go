package main

import (
	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store"
)

// attributesFlag is checked while the command line is read.
type attributesFlag authz.Attributes

// UnmarshalText implements [encoding.TextUnmarshaler].
func (f *attributesFlag) UnmarshalText(text []byte) error {
	a, err := store.ParseAttributes(string(text))
	*f = attributesFlag(a)
	return err
}

// newAttributes is for commands that create something.
type newAttributes struct {
	Attributes attributesFlag `help:"Attributes for policies to read: a JSON object. Lists show them, so put no secrets there." placeholder:"JSON"`
}

// setAttributes is for commands that change something.
type setAttributes struct {
	Attributes attributesFlag `help:"Attributes for policies to read: a JSON object, which replaces the present one. Lists show them, so put no secrets there." required:"" placeholder:"JSON"`
	waiting
}
