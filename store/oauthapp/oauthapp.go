// Package oauthapp defines the ids, the names and the secrets of OAuth 2.0 apps, for the registry and the issuer.
package oauthapp

import (
	"crypto/rand"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
)

// appID is the form that the constraint on the column id requires.
var appID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$`)

// ValidID reports whether the text has the form of an app's id (the client_id).
func ValidID(id string) bool { return appID.MatchString(id) }

// CheckName returns an error if the consent page cannot show the name safely. A name has 1 to 100 graphic characters, and not only white
// space. Other characters could change how the page shows the name, or the text next to the name.
func CheckName(name string) error {
	if utf8.ValidString(name) && utf8.RuneCountInString(name) <= 100 && strings.TrimSpace(name) != "" &&
		!strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		return nil
	}
	return database.NewRefusal(database.ErrInvalid, "the app's name %q is empty, longer than 100 characters, or has invisible characters", name)
}

// NewSecret returns a random secret of 260 bits. App secrets, codes and refresh tokens are such secrets.
func NewSecret() authz.Secret { return authz.Secret(rand.Text() + rand.Text()) }

// secretForm is the form of the secrets that NewSecret returns: base32, as [rand.Text] writes it.
var secretForm = regexp.MustCompile(`^[A-Z2-7]{52}$`)

// IsSecret reports whether the text has the form of a secret that [NewSecret] returns.
func IsSecret(text string) bool { return secretForm.MatchString(text) }

// ErrUnknown means that no app has the id. It wraps [database.ErrNotFound].
var ErrUnknown = database.NewRefusal(database.ErrNotFound, "no app has this id: give the client id that `keywicket oauth-app list` shows")
