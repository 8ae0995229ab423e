package session

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictjson"
)

// claims are those of Supabase's access tokens that anything rests on. docs/security.md lists them all, with what is made
// of each.
type claims struct {
	issuer, user, id, role string
	aal                    string
	audience               jwt.ClaimStrings
	expires, notBefore     *jwt.NumericDate
	issued                 *jwt.NumericDate
	began                  time.Time
	anonymous              bool
	app                    *app // nil: the token was given to no app
}

// app is the app that received the token. A token without one was given to the user alone.
type app struct {
	ids   []string // as client_id (RFC 9068, section 2.2) and azp (OpenID Connect Core, section 2) name it
	actor bool     // another party acts for the user (RFC 8693, section 4.1), or the holder of the token is unknown
}

// is reports whether the app is one of those with the ids.
func (a *app) is(ids []string) bool {
	return !a.actor && !slices.ContainsFunc(a.ids, func(id string) bool { return !slices.Contains(ids, id) })
}

var errClaims = errors.New("a claim is missing, there twice, or of another type")

// UnmarshalJSON implements [json.Unmarshaler]. Names count as they are written, each once; a time is a number; an
// identifier is text that can stand in a header and in a database.
func (c *claims) UnmarshalJSON(text []byte) error {
	fields, err := strictjson.Object(text)
	if err != nil {
		return errClaims
	}
	var audience audience
	var client, party string
	for name, read := range map[string]func(json.RawMessage) bool{
		"iss":          func(v json.RawMessage) bool { return readText(v, &c.issuer) },
		"aud":          func(v json.RawMessage) bool { return json.Unmarshal(v, &audience) == nil },
		"sub":          func(v json.RawMessage) bool { return readText(v, &c.user) },
		"session_id":   func(v json.RawMessage) bool { return readText(v, &c.id) },
		"role":         func(v json.RawMessage) bool { return readText(v, &c.role) },
		"aal":          func(v json.RawMessage) bool { return readText(v, &c.aal) },
		"client_id":    func(v json.RawMessage) bool { return readText(v, &client) },
		"azp":          func(v json.RawMessage) bool { return readText(v, &party) },
		"is_anonymous": func(v json.RawMessage) bool { return readBool(v, &c.anonymous) },
		"exp":          func(v json.RawMessage) bool { return readTime(v, &c.expires) },
		"nbf":          func(v json.RawMessage) bool { return readTime(v, &c.notBefore) },
		"iat":          func(v json.RawMessage) bool { return readTime(v, &c.issued) },
	} {
		if value, ok := fields[name]; ok && !read(value) {
			return errClaims
		}
	}
	c.audience = jwt.ClaimStrings(audience)
	if !identifier(c.user) || !identifier(c.id) || c.issued == nil || c.aal != "" && !identifier(c.aal) {
		return errClaims
	}
	c.app = appOf(fields, client, party)
	c.began = began(c.issued.Time, fields["amr"])
	return nil
}

// appOf finds the app that received the token. A claim that is present but empty still means that an app received it.
func appOf(fields map[string]json.RawMessage, client, party string) *app {
	a := &app{actor: fields["act"] != nil}
	for name := range fields { // in other letters no issuer writes them, and a server behind might read them
		for _, read := range []string{"client_id", "azp", "act"} {
			a.actor = a.actor || name != read && strings.EqualFold(name, read)
		}
	}
	if fields["client_id"] != nil {
		a.ids = append(a.ids, client)
	}
	if fields["azp"] != nil {
		a.ids = append(a.ids, party)
	}
	if len(a.ids) == 0 && !a.actor {
		return nil
	}
	return a
}

// began is when the user signed in, as the authentication methods tell (RFC 8176, with times as Supabase writes them): a
// token that was refreshed is issued later. Where they do not tell, it may have been at any time.
func began(issued time.Time, methods json.RawMessage) time.Time {
	var list []struct {
		Timestamp json.RawMessage `json:"timestamp"`
	}
	first := time.Time{}
	_ = json.Unmarshal(methods, &list) // absent, or as other issuers write them
	for _, m := range list {
		var at *jwt.NumericDate
		if readTime(m.Timestamp, &at) && (first.IsZero() || at.Before(first)) {
			first = at.Time
		}
	}
	switch {
	case first.IsZero():
		return time.Unix(0, 0)
	case issued.Before(first):
		return issued
	}
	return first
}

// audience is a string, or a list of them (RFC 7519, section 4.1.3).
type audience []string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if readText(text, &one) {
		*a = audience{one}
		return nil
	}
	var many []json.RawMessage
	if err := json.Unmarshal(text, &many); err != nil {
		return err
	}
	*a = nil
	for _, value := range many {
		if !readText(value, &one) {
			return errClaims
		}
		*a = append(*a, one)
	}
	return nil
}

func readBool(value json.RawMessage, to *bool) bool {
	return string(value) != "null" && json.Unmarshal(value, to) == nil
}

// readTime reads seconds since 1970, between then and the year 10000.
func readTime(value json.RawMessage, to **jwt.NumericDate) bool {
	const end = 253402300800
	var seconds float64
	if string(value) == "null" || json.Unmarshal(value, &seconds) != nil || seconds < 0 || seconds >= end {
		return false
	}
	whole := int64(seconds)
	*to = &jwt.NumericDate{Time: time.Unix(whole, int64((seconds-float64(whole))*1e9))}
	return true
}

// identifier has the form of a user's id in the directory (migration 00001). What encoding/json puts in the place of half a
// surrogate pair is in none.
func identifier(s string) bool {
	return s != "" && utf8.RuneCountInString(s) <= 255 && strings.Trim(s, " ") == s &&
		!strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
}

// session is as old as it may be: the issuer's clock may be ahead of the one by which it is revoked.
func (c *claims) session(leeway time.Duration) authz.Session {
	return authz.Session{ID: c.id, UserID: c.user, Began: max(0, c.began.Add(-leeway).Unix())}
}

// The methods of [jwt.Claims].

// GetExpirationTime gives exp.
func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.expires, nil }

// GetIssuedAt gives iat.
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error) { return c.issued, nil }

// GetNotBefore gives nbf.
func (c *claims) GetNotBefore() (*jwt.NumericDate, error) { return c.notBefore, nil }

// GetIssuer gives iss.
func (c *claims) GetIssuer() (string, error) { return c.issuer, nil }

// GetSubject gives sub.
func (c *claims) GetSubject() (string, error) { return c.user, nil }

// GetAudience gives aud.
func (c *claims) GetAudience() (jwt.ClaimStrings, error) { return c.audience, nil }
