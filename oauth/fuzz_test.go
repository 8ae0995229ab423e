package oauth_test

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// errorDescription matches every error description of the token endpoint. It does not match text from the request.
var errorDescription = regexp.MustCompile(`^(?:` + strings.Join([]string{
	`the body must be application/x-www-form-urlencoded or application/json`, `the body is too long`, `the body is not a valid form`,
	`the body is not a JSON object, or a name in it occurs twice`,
	`(?:grant_type|client_id|client_secret|code|redirect_uri|code_verifier|refresh_token|scope) (?:is missing|is not a string|is not UTF-8|occurs twice|has control characters)`,
	`grant_type must be authorization_code or refresh_token`,
	`the app is unknown, or its secret is wrong or missing`,
	`the code or token is unknown, expired, used, revoked, or not for this request`,
}, `|`) + `)$`)

// FuzzTokenRequest checks that the token endpoint answers any request as RFC 6749, section 5.2, requires, without a panic. A
// request without a valid code or refresh token gets no token. The response contains no text from the request, and the server
// logs nothing.
func FuzzTokenRequest(f *testing.F) {
	i := newFixture(f)
	// The database creates new ids in each run. So the inputs contain placeholders instead of ids, and each input has the same
	// effect in every run.
	placeholders := strings.NewReplacer("PUBLIC", i.public.ID, "CONFIDENTIAL", i.confidential.ID, "SECRET", i.confidentialSecret.Reveal())
	const formType, jsonType = "application/x-www-form-urlencoded", "application/json"
	const exchange = "grant_type=authorization_code&client_id=PUBLIC&code=c&redirect_uri=https%3A%2F%2Fplanner.example%2Fcb&code_verifier=" + verifier
	for _, body := range []string{
		exchange, exchange + "&client_secret=SECRET", exchange + "&code=c", exchange + "&made_up=%zz", exchange + "&a=%00", exchange + "&a=%ff", exchange + ";b",
		strings.Replace(exchange, "PUBLIC", "CONFIDENTIAL", 1), strings.Replace(exchange, "PUBLIC", "CONFIDENTIAL&client_secret=SECRET", 1),
		"grant_type=refresh_token&client_id=PUBLIC&refresh_token=r&scope=issues%3Aread", "grant_type=refresh_token&client_id=nobody&refresh_token=r",
		"grant_type=password&username=ada&password=p", "grant_type=client_credentials&client_id=CONFIDENTIAL&client_secret=SECRET", "grant_type=", "",
		exchange + "&a=" + strings.Repeat("a", 16<<10),
	} {
		f.Add(formType, []byte(body))
	}
	for _, body := range []string{
		`{"grant_type": "authorization_code", "client_id": "PUBLIC", "code": "c", "redirect_uri": "https://planner.example/cb", "code_verifier": "` + verifier + `"}`,
		`{"grant_type": "refresh_token", "client_id": "CONFIDENTIAL", "client_secret": "SECRET", "refresh_token": "r", "scope": null, "expires_in": 3600}`,
		`{"grant_type": "refresh_token", "grant_type": "refresh_token"}`, `{"grant_type": {"$ne": ""}}`, `{"grant_type": "\u0000"}`, `[]`, `{}`, `{`, `{} {}`, "\ufeff{}",
	} {
		f.Add(jsonType+"; charset=utf-8", []byte(body))
		f.Add(formType, []byte(body))
	}
	f.Add("", []byte(exchange))
	f.Add("text/plain", []byte(exchange))
	f.Add(formType+"; charset", []byte(exchange))

	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		request := httptest.NewRequestWithContext(t.Context(), "POST", "/api/oauth/token", strings.NewReader(placeholders.Replace(string(body))))
		request.Header["Content-Type"] = []string{contentType}
		w := httptest.NewRecorder()
		i.Config.Handler.ServeHTTP(w, request)

		var answer struct {
			Code        string `json:"error"`
			Description string `json:"error_description"`
		}
		decoder := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&answer); err != nil || decoder.More() || !errorDescription.MatchString(answer.Description) {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		statuses := map[string]int{
			"invalid_request": 400, "invalid_client": 401, "invalid_grant": 400, "unauthorized_client": 400, "unsupported_grant_type": 400, "invalid_scope": 400,
		}
		if w.Code != statuses[answer.Code] {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		h := w.Header()
		if challenged := h.Get("WWW-Authenticate") == `Basic realm="keywicket"`; challenged != (w.Code == 401) {
			t.Fatalf("%d %v", w.Code, h)
		}
		h.Del("WWW-Authenticate")
		if len(h) != 3 || h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-store" || h.Get("Pragma") != "no-cache" {
			t.Fatalf("%v", h)
		}
		if text := i.log.String(); text != "" {
			t.Fatalf("the log contains %s", text)
		}
	})
}
