package pages

import (
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/database"
)

// The texts of the pages are in the templates. This file has the texts that depend on a decision of Go code.

// These are errors in fields of forms. The package settings has more of them.
var (
	errNoDate     = &settings.FieldError{Field: "expires_at", Text: "Choose a date."}
	errNoExpiry   = &settings.FieldError{Field: "expires_at", Text: "Choose when it expires."}
	errNoOverlap  = &settings.FieldError{Field: "overlap", Text: "Choose when the old secret ends."}
	errIncomplete = &settings.FieldError{Field: "form", Text: "The form was incomplete. Check it, and send it again."}
	errUnsure     = &settings.FieldError{Field: "confirmed", Text: "Confirm that you want to give full access, or choose other scopes."}
	errMayNot     = database.NewRefusal(settings.ErrForbidden, "You may not manage these here.")
)
