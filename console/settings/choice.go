package settings

import (
	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/tokenlimit"
	"github.com/keywicket/keywicket/policies/issuance"
)

// Choice is what a caller may give to a new token.
type Choice struct {
	Scopes  []string // sorted
	Presets []issuance.Preset
	Formats []authz.CredentialFormat
	Limits  tokenlimit.Limits
}

// Choice returns what the caller may give to a token of this kind of owner.
func (c Caller) Choice(o Owner) (Choice, error) {
	if err := c.mayManage(o); err != nil {
		return Choice{}, err
	}
	formats, rules := c.API.FormatsOf(o), c.API.Rules
	kind := formats[0].Kind // the rules are the same for all formats of this kind of owner
	return Choice{rules.Grantable(c.Maker, kind), rules.Presets(c.Maker, kind), formats, rules.Limits}, nil
}
