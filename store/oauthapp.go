// Package oauthapp has what the registry and the issuer share about OAuth 2.0 apps.
package store

import (
	"crypto/rand"
	"regexp"

	"github.com/keywicket/keywicket/authz"
)

// appID is the form that the constraint on the column id requires.
var appID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$`)

// validAppID reports whether the text can be the id of an app, its client_id.
func validAppID(id string) bool { return appID.MatchString(id) }

// newSecret returns a random secret of 260 bits: of an app, or a code or refresh token for one.
func newSecret() authz.Secret { return authz.Secret(rand.Text() + rand.Text()) }

// errNoApp means that no app has the id. It matches [ErrNotFound].
var errNoApp error = refuse(ErrNotFound, "no app has this id: an app is named by its client id, as the list shows it")
