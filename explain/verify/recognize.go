package verify

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/bearer"
	"github.com/keywicket/keywicket/store/oauthapp"
)

// UndefinedError is the error for an API, a prefix or an issuer of sessions that the configuration does not define.
type UndefinedError struct{ error }

// Token is a credential that at least one API recognizes: a key, the access token of an app, or the token of a session.
type Token struct {
	secret     authz.Secret
	formats    map[string]authz.CredentialFormat // of a key or an access token, by name of the API
	api        string                            // the only API that the token may belong to; empty: any API
	sessionAPI string                            // the API that has to verify the session; empty: the token is not of a session
	session    authz.SessionFormat               // of sessionAPI
}

// Recognize returns the token in the text. It uses only the configuration of the APIs. The parameter `api` is the only API that the
// token may belong to; if it is empty, the token may belong to any API. The error says what else the text is.
func Recognize(apis map[string]authz.API, text, api string) (Token, error) {
	t := Token{secret: authz.Secret(text), formats: map[string]authz.CredentialFormat{}, api: api}
	names := slices.Sorted(maps.Keys(apis))
	if _, ok := apis[api]; !ok && api != "" {
		return Token{}, UndefinedError{fmt.Errorf("no API %q: give --api with one of these values: %s", api, strings.Join(names, ", "))}
	}
	var prefixes, sessions []string // all prefixes; the APIs for which the text is the token of a session
	var short string                // prefix of the format for which the text is too short or too long
	for _, name := range names {
		for _, f := range apis[name].Credentials {
			if !slices.Contains(prefixes, f.Prefix) {
				prefixes = append(prefixes, f.Prefix)
			}
		}
		format, denial := apis[name].Recognize(t.secret)
		switch {
		case denial == authz.ReasonMalformed:
			short = format.Prefix
		case denial != "":
		case format.Kind == authz.KindSession:
			sessions = append(sessions, name)
		default:
			t.formats[name] = format
		}
	}
	withSessions := authz.MatchingAPIs(apis, "", func(a authz.API) bool { return a.Session.Issuer != "" })
	switch {
	case !bearer.IsB64Token(text):
		return Token{}, errors.New("the text has a character that no token has: give only the token, without quotation marks")
	case slices.Contains(sessions, api):
		t.sessionAPI = api
	case len(t.formats) > 0: // for other APIs, the same text may be a session's token
		if _, ok := t.formats[api]; !ok && api != "" {
			return Token{}, t.otherAPI(strings.Join(slices.Sorted(maps.Keys(t.formats)), ", "))
		}
	case len(sessions) > 0 && api != "":
		return Token{}, t.otherAPI(strings.Join(sessions, ", "))
	case len(sessions) > 1:
		return Token{}, fmt.Errorf("this is the token of a session, and %s accept sessions: give --api", strings.Join(sessions, " and "))
	case len(sessions) == 1:
		t.sessionAPI = sessions[0]
	case strings.HasPrefix(text, "eyJ") && len(withSessions) > 0: // {" in base64
		return Token{}, errors.New("this is no whole JWT, or it is longer than every token of a session: give the whole token")
	case strings.HasPrefix(text, "eyJ"):
		return Token{}, UndefinedError{errors.New("this is a JWT, such as the token of a session, and no API accepts sessions: set apis.NAME.session.issuer")}
	case short != "":
		return Token{}, fmt.Errorf("this is no whole token: after %s, a token has at least 16 characters, and at most 512 in total: give the whole token", short)
	case oauthapp.IsSecret(text):
		return Token{}, errors.New("this looks like a secret of OAuth (a refresh token, a code, or the secret of an app), not like a token: only its app can use it")
	default:
		return Token{}, UndefinedError{fmt.Errorf("no kind of token starts with this text; prefixes are %s", strings.Join(prefixes, ", "))}
	}
	t.session = apis[t.sessionAPI].Session
	return t, nil
}

func (t Token) otherAPI(name string) error {
	return fmt.Errorf("the token is for the API %s, not for %s: leave out --api, or give --api %[1]s", name, t.api)
}

// OfSession reports whether the token is the token of a session.
func (t Token) OfSession() bool { return t.sessionAPI != "" }
