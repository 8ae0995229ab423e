// Package sessioncookie finds the token of a user's session in the cookies that Supabase's libraries write.
package sessioncookie

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/keywicket/keywicket/authz"
)

// Token returns the token of the user's session from the cookie with the given name. The value of the cookie is either the
// token itself, or the JSON that Supabase's libraries write. This JSON is an object that contains the access token. Old versions
// of these libraries write a list whose first element is the access token. The JSON is percent-encoded, or it is base64url text
// after the prefix "base64-". A value that is too long for one cookie is split into the cookies NAME.0, NAME.1 and so on.
func Token(r *http.Request, name string) (authz.Secret, bool) {
	value, ok := cookieValue(r, name)
	if !ok {
		return "", false
	}
	if encoded, ok := strings.CutPrefix(value, "base64-"); ok {
		text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(encoded, "="))
		if err != nil {
			return "", false
		}
		value = string(text)
	} else if text, err := url.PathUnescape(value); err == nil {
		value = text
	}
	var object struct {
		AccessToken string `json:"access_token"`
	}
	var list []any
	switch {
	case json.Unmarshal([]byte(value), &object) == nil:
		value = object.AccessToken
	case json.Unmarshal([]byte(value), &list) == nil && len(list) > 0:
		value, _ = list[0].(string)
	}
	return authz.Secret(value), strings.Count(value, ".") == 2
}

// cookieValue returns the value of the cookie. If the value is split into several cookies, cookieValue joins them. An empty cookie
// counts as absent, as in the function combineChunks of @supabase/ssr. If several cookies have the same name, cookieValue uses the
// first one.
func cookieValue(r *http.Request, name string) (string, bool) {
	values := make(map[string]string)
	for _, c := range r.Cookies() {
		if _, seen := values[c.Name]; !seen {
			values[c.Name] = c.Value
		}
	}
	if value := values[name]; value != "" {
		return value, true
	}
	var whole strings.Builder
	for n := 0; ; n++ {
		value := values[fmt.Sprintf("%s.%d", name, n)]
		if value == "" {
			return whole.String(), n > 0
		}
		whole.WriteString(value)
	}
}
