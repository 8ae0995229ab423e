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

// claims are the claims of Supabase's access tokens that this package reads. docs/security.md lists all claims and their use.
type claims struct {
	issuer, user, id, role string
	aal                    string
	audience               jwt.ClaimStrings
	expires, notBefore     *jwt.NumericDate
	issued                 *jwt.NumericDate
	startedAt              time.Time
	anonymous              bool
	app                    *app // nil: no app received the token
}

// app is the app that received the token.
type app struct {
	ids     []string // the values of client_id (RFC 9068, section 2.2) and azp (OpenID Connect Core, section 2)
	refused bool     // the token has the claim act (RFC 8693, section 4.1), or has client_id, azp or act in another letter case
}

// isOneOf reports whether all ids of the app are among the given ids. If the field refused is true, isOneOf returns false.
func (a *app) isOneOf(ids []string) bool {
	return !a.refused && !slices.ContainsFunc(a.ids, func(id string) bool { return !slices.Contains(ids, id) })
}

var errClaims = errors.New("a claim is missing, repeated, or of the wrong type")

// UnmarshalJSON implements [json.Unmarshaler]. The names of claims are case-sensitive and must not occur twice. A time must be a
// number. An identifier must be text that is valid in a header and in the database.
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
	if !validID(c.user) || !validID(c.id) || c.issued == nil || c.aal != "" && !validID(c.aal) {
		return errClaims
	}
	c.app = appOf(fields, client, party)
	c.startedAt = signInTime(c.issued.Time, fields["amr"])
	return nil
}

// appOf returns the app that received the token. It returns nil if the token has none of the claims client_id, azp and act, in any
// letter case. If one of these claims is present, an app received the token, even if the value is empty.
func appOf(fields map[string]json.RawMessage, client, party string) *app {
	a := &app{refused: fields["act"] != nil}
	for name := range fields { // an upstream may read CLIENT_ID as client_id, so a claim in another letter case is refused
		for _, claim := range []string{"client_id", "azp", "act"} {
			a.refused = a.refused || name != claim && strings.EqualFold(name, claim)
		}
	}
	if fields["client_id"] != nil {
		a.ids = append(a.ids, client)
	}
	if fields["azp"] != nil {
		a.ids = append(a.ids, party)
	}
	if len(a.ids) == 0 && !a.refused {
		return nil
	}
	return a
}

// signInTime returns when the user signed in: the earliest time of an authentication method in the claim amr (RFC 8176; Supabase
// adds the times). If iat is before this time, signInTime returns iat. iat alone is not sufficient, because a refreshed token is
// issued after the sign-in. If amr has no time, the user may have signed in at any time, so signInTime returns the start of 1970.
func signInTime(issued time.Time, methods json.RawMessage) time.Time {
	var list []struct {
		Timestamp json.RawMessage `json:"timestamp"`
	}
	first := time.Time{}
	_ = json.Unmarshal(methods, &list) // an error means that the claim amr is missing, or that it has the form that another issuer uses
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

// audience is the claim aud: a string or a list of strings (RFC 7519, section 4.1.3).
type audience []string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if readText(text, &one) {
		*a = audience{one}
		return nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	*a = nil
	for _, value := range list {
		if !readText(value, &one) {
			return errClaims
		}
		*a = append(*a, one)
	}
	return nil
}

func readBool(value json.RawMessage, target *bool) bool {
	return string(value) != "null" && json.Unmarshal(value, target) == nil
}

// readTime reads a time from 1970 to the year 9999, in seconds since 1970.
func readTime(value json.RawMessage, target **jwt.NumericDate) bool {
	const end = 253402300800
	var seconds float64
	if string(value) == "null" || json.Unmarshal(value, &seconds) != nil || seconds < 0 || seconds >= end {
		return false
	}
	whole := int64(seconds)
	*target = &jwt.NumericDate{Time: time.Unix(whole, int64((seconds-float64(whole))*1e9))}
	return true
}

// validID reports whether the text has the form of a user's id in the directory (migration 00001). An id must not contain
// U+FFFD, because encoding/json replaces an unpaired surrogate with this character.
func validID(s string) bool {
	return s != "" && utf8.RuneCountInString(s) <= 255 && strings.Trim(s, " ") == s &&
		!strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
}

// session returns the session of the token. It moves the start of the session back, because the issuer's clock may be ahead of the
// database's clock, which sets the times of revocations.
func (c *claims) session(f authz.SessionFormat) authz.Session {
	return authz.Session{ID: c.id, UserID: c.user, StartedAt: max(0, c.startedAt.Add(-clockDifference(f)).Unix())}
}

// BegunBefore returns the start of the first session that a revocation of all sessions of its user does not revoke. The parameter
// `revoked` is the time of the revocation by the database's clock. The result is by the issuer's clock, in whole seconds. It is
// later than the revocation by the leeway, unless one clock sets both times, and by up to a second, because the times in tokens are
// in whole seconds.
func BegunBefore(revoked time.Time, f authz.SessionFormat) time.Time {
	first := revoked.Truncate(time.Second).Add(time.Second + clockDifference(f))
	return first.Add(time.Second - 1).Truncate(time.Second)
}

// clockDifference returns the maximum time by which the issuer's clock may be ahead of the database's clock.
func clockDifference(f authz.SessionFormat) time.Duration {
	if f.SharedClock {
		return 0
	}
	return f.Leeway
}

// The following methods implement [jwt.Claims].

// GetExpirationTime returns exp.
func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.expires, nil }

// GetIssuedAt returns iat.
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error) { return c.issued, nil }

// GetNotBefore returns nbf.
func (c *claims) GetNotBefore() (*jwt.NumericDate, error) { return c.notBefore, nil }

// GetIssuer returns iss.
func (c *claims) GetIssuer() (string, error) { return c.issuer, nil }

// GetSubject returns sub.
func (c *claims) GetSubject() (string, error) { return c.user, nil }

// GetAudience returns aud.
func (c *claims) GetAudience() (jwt.ClaimStrings, error) { return c.audience, nil }
