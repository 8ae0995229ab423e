// Package tokenlimit contains the operator's limits on the tokens that users and operators create.
package tokenlimit

import (
	"errors"
	"time"
)

// Limits are the limits of an API. The zero value limits nothing.
type Limits struct {
	// MaxLifetime is the longest time from the creation of a token to its expiry. 0: unlimited. A token without an expiry has an
	// unlimited lifetime.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// ExpiryRequired means that every token needs an expiry.
	ExpiryRequired bool `yaml:"expiry_required"`
	// OverrideRoles are the roles of the members who may create a token with an override scope of a workspace, such as admin:all.
	// Empty: every role that has the scope.
	OverrideRoles []string `yaml:"override_roles"`
}

// Validate returns an error if a limit is not valid. The text of the error starts with the configuration key.
func (l Limits) Validate() error {
	if l.MaxLifetime < 0 || l.MaxLifetime > 0 && l.MaxLifetime < time.Minute {
		return errors.New("max_lifetime: give a duration of at least 1m, such as 8760h for a year, or 0s for no limit")
	}
	return nil
}
