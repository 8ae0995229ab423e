package api

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/database"
)

// refusal is an error response. Its body has the same form as the sidecar's denials.
type refusal struct {
	Code       string `json:"code"`
	Reason     string `json:"reason"`
	Message    string `json:"message"`
	Field      string `json:"field,omitempty"`
	DecisionID string `json:"decision_id,omitempty"`
	status     int
	allow      []string // the methods of the path
}

func (r *refusal) Error() string { return r.Code + ": " + r.Message }

var (
	errNoRoute = &refusal{status: http.StatusNotFound, Code: "NOT_FOUND", Reason: "no_route", Message: "The management API has no such path."}
	errNoUser  = &refusal{status: http.StatusForbidden, Code: "FORBIDDEN", Reason: "not_permitted", Message: "This operation needs the credential of a user."}
	errNoID    = &refusal{status: http.StatusNotFound, Code: "NOT_FOUND", Reason: "not_found", Message: "Nothing has this id here."}
)

// badRequest returns the error for a request that does not have the form that openapi.json describes.
func badRequest(reason, field, message string) error {
	return &refusal{status: http.StatusBadRequest, Code: "INVALID_REQUEST", Reason: reason, Field: field, Message: message}
}

// refusalOf returns the response to an error. It returns nil for a failure of the server: the client must not see its text.
func refusalOf(err error) *refusal {
	text := sentence(err)
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused
	}
	if f, ok := errors.AsType[*settings.FieldError](err); ok {
		return &refusal{status: http.StatusUnprocessableEntity, Code: "INVALID_REQUEST", Reason: "invalid_field", Field: f.Field, Message: text}
	}
	switch {
	case errors.Is(err, errNoCaller), errors.Is(err, settings.ErrForbidden):
		return &refusal{status: http.StatusForbidden, Code: "FORBIDDEN", Reason: "not_permitted", Message: text}
	case errors.Is(err, settings.ErrNotFound):
		return &refusal{status: http.StatusNotFound, Code: "NOT_FOUND", Reason: "not_found", Message: text}
	case errors.Is(err, settings.ErrConflict):
		return &refusal{status: http.StatusConflict, Code: "CONFLICT", Reason: "idempotency_key_used", Message: text}
	case errors.Is(err, database.ErrExists):
		return &refusal{status: http.StatusConflict, Code: "CONFLICT", Reason: "exists", Message: text}
	case errors.Is(err, settings.ErrInvalid):
		return &refusal{status: http.StatusUnprocessableEntity, Code: "INVALID_REQUEST", Reason: "invalid", Message: text}
	}
	return nil
}

// sentence returns the text of an error as a sentence. Errors of the store begin in lower case.
func sentence(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + strings.TrimSuffix(text[1:], ".") + "."
}

// refuse writes an error response. If the error is a failure of the server, refuse logs it, and the response contains no details.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, err error) {
	refused := refusalOf(err)
	if refused == nil {
		a.log.LogAttrs(r.Context(), slog.LevelError, "the management API could not answer", slog.String("method", r.Method), slog.Any("error", err))
		w.Header().Set("Retry-After", "1")
		refused = &refusal{status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Reason: "unavailable", Message: "The server cannot answer now. Try again."}
	}
	if len(refused.allow) > 0 {
		w.Header().Set("Allow", strings.Join(refused.allow, ", "))
	}
	body := *refused
	body.DecisionID = r.Header.Get("X-Keywicket-Decision-Id")
	respond(w, refused.status, map[string]any{"error": body})
}
