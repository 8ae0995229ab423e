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

// refusal is an error answer to an app (RFC 6749, section 5.2).
type refusal struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
	status      int
	wait        time.Duration
	outcome     string // what [Config.Observe] is told, if it is not the code
}

func (r *refusal) Error() string { return r.Code + ": " + r.Description }

// The codes of RFC 6749, section 5.2.
func invalidRequest(why string) error { return &refusal{Code: "invalid_request", Description: why} }
func invalidGrant() *refusal {
	return &refusal{Code: "invalid_grant", Description: "the code or token is unknown, expired, used, revoked, or not for this request"}
}
func invalidScope() error {
	return &refusal{Code: "invalid_scope", Description: "more than the user has granted"}
}
func unsupportedGrantType() error {
	return &refusal{Code: "unsupported_grant_type", Description: "grant_type is authorization_code or refresh_token"}
}
func invalidClient() error {
	return &refusal{Code: "invalid_client", Description: "the app is unknown, or its secret is wrong or missing", status: http.StatusUnauthorized}
}

// reused looks to the app like any other.
func reused() error {
	r := invalidGrant()
	r.outcome = "reused"
	return r
}

// tooMany refuses a caller that has to wait (RFC 6585, section 4).
func tooMany(wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	return &refusal{Code: "temporarily_unavailable", Description: "too many requests", status: http.StatusTooManyRequests, wait: wait, outcome: "limited"}
}

// seconds is how Retry-After has it.
func seconds(wait time.Duration) string { return strconv.Itoa(int(math.Ceil(wait.Seconds()))) }

// failed is for failures of the server: temporary, and logged.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	s.log.LogAttrs(r.Context(), slog.LevelError, "the issuer could not answer", slog.String("path", r.URL.Path), slog.Any("error", err))
	w.Header().Set("Retry-After", "1")
}

// refuse writes an error and returns its outcome in one word. It logs a failure of the server, and hides its details.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) (outcome string) {
	told, ok := errors.AsType[*refusal](err)
	if !ok {
		s.failed(w, r, err)
		respond(w, http.StatusServiceUnavailable, &refusal{Code: "temporarily_unavailable"})
		return "unavailable"
	}
	if told.status == http.StatusUnauthorized { // RFC 9110, section 15.5.2; of what can be tried Basic alone is such a scheme
		w.Header().Set("WWW-Authenticate", `Basic realm="keywicket"`)
	}
	if told.wait > 0 {
		w.Header().Set("Retry-After", seconds(told.wait))
	}
	respond(w, cmp.Or(told.status, http.StatusBadRequest), told)
	return cmp.Or(told.outcome, told.Code)
}
