package oauth

import (
	"cmp"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"
)

// refusal is an error response to an app (RFC 6749, section 5.2).
type refusal struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
	status      int
	wait        time.Duration
	outcome     string // outcome for [Config.Observe]; if empty, Code is the outcome
}

func (r *refusal) Error() string { return r.Code + ": " + r.Description }

// The following functions return refusals with the error codes of RFC 6749, section 5.2.
func invalidRequest(why string) error { return &refusal{Code: "invalid_request", Description: why} }
func invalidGrant() *refusal {
	return &refusal{Code: "invalid_grant", Description: "the code or token is unknown, expired, used, revoked, or not for this request"}
}
func invalidScope() error {
	return &refusal{Code: "invalid_scope", Description: "the user has not granted one of the requested scopes"}
}
func unsupportedGrantType() error {
	return &refusal{Code: "unsupported_grant_type", Description: "grant_type must be authorization_code or refresh_token"}
}
func invalidClient() error {
	return &refusal{Code: "invalid_client", Description: "the app is unknown, or its secret is wrong or missing", status: http.StatusUnauthorized}
}

// reuseError returns the error for a code or token that is used a second time. The app receives the usual error invalid_grant.
// Only the outcome for the operator is different.
func reuseError() error {
	r := invalidGrant()
	r.outcome = "reused"
	return r
}

// tooManyRequests returns the error for a caller that must wait (RFC 6585, section 4). If the parameter `wait` is 0,
// tooManyRequests returns nil.
func tooManyRequests(wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	return &refusal{Code: "temporarily_unavailable", Description: "too many requests", status: http.StatusTooManyRequests, wait: wait, outcome: "limited"}
}

// seconds returns the value of Retry-After: whole seconds, rounded up.
func seconds(wait time.Duration) string { return strconv.Itoa(int(math.Ceil(wait.Seconds()))) }

// logFailure logs a failure of the server. It also sets the header Retry-After, because the client may try again.
func (s *Server) logFailure(w http.ResponseWriter, r *http.Request, err error) {
	s.log.LogAttrs(r.Context(), slog.LevelError, "the issuer could not answer", slog.String("path", r.URL.Path), slog.Any("error", err))
	w.Header().Set("Retry-After", "1")
}

// refuse writes an error response and returns its outcome. If the error is a failure of the server, refuse logs the error, and
// the response contains no details.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) (outcome string) {
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		s.logFailure(w, r, err)
		respond(w, http.StatusServiceUnavailable, &refusal{Code: "temporarily_unavailable"})
		return "unavailable"
	}
	if refused.status == http.StatusUnauthorized { // RFC 9110, section 15.5.2, requires a challenge; Basic is the only supported scheme
		w.Header().Set("WWW-Authenticate", `Basic realm="keywicket"`)
	}
	if refused.wait > 0 {
		w.Header().Set("Retry-After", seconds(refused.wait))
	}
	respond(w, cmp.Or(refused.status, http.StatusBadRequest), refused)
	return cmp.Or(refused.outcome, refused.Code)
}
