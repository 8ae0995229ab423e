package authz

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// DeclaredDenial is a denial that an API declares for its policy, in addition to the built-in codes and reasons.
type DeclaredDenial struct {
	// Code is either a new code, such as PAYMENT_REQUIRED, or one of the built-in codes UNAUTHORIZED, FORBIDDEN and
	// WORKSPACE_ACCESS_DENIED.
	Code Code `yaml:"code"`
	// Reason is a new reason, such as plan_too_small.
	Reason Reason `yaml:"reason"`
	// Status is the HTTP status, 400 to 499. Default: the status of the built-in code. A new code needs a status.
	Status int `yaml:"status"`
	// Message is the message for the client: one line of text, at most 512 bytes.
	Message string `yaml:"message"`
	// RetryAfter is the Retry-After header for the client, in whole seconds, at most 24 hours. A policy can override it. Default:
	// no header.
	RetryAfter time.Duration `yaml:"retry_after"`
}

const (
	maxMessage    = 512 // bytes
	maxRetryAfter = 24 * time.Hour
)

var (
	codeForm   = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)
	reasonForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
)

// extensibleCodes contains the built-in codes for which an API may declare reasons. The value is the HTTP status of the code.
var extensibleCodes = map[Code]int{CodeUnauthorized: 401, CodeForbidden: 403, CodeWorkspaceAccessDenied: 403}

// Complete returns the denial with its defaults, and validates it as [API.Complete] does.
func (d DeclaredDenial) Complete() (DeclaredDenial, error) {
	status, builtIn := extensibleCodes[d.Code]
	if builtIn && d.Status == 0 {
		d.Status = status
	}
	switch {
	case !codeForm.MatchString(string(d.Code)):
		return d, fmt.Errorf("code: %q is not valid: write 1 to 64 characters of A-Z, 0-9 and _, starting with a letter", d.Code)
	case !builtIn && isBuiltInCode(d.Code):
		return d, fmt.Errorf("code: %s is reserved for the sidecar; policies cannot use it", d.Code)
	case !reasonForm.MatchString(string(d.Reason)):
		return d, fmt.Errorf("reason: %q is not valid: write 1 to 64 characters of a-z, 0-9 and _, starting with a letter", d.Reason)
	case codeOf[d.Reason] != "":
		return d, fmt.Errorf("reason: %s is built in, under the code %s; choose another reason", d.Reason, codeOf[d.Reason])
	case builtIn && d.Status != status:
		return d, fmt.Errorf("status: the status of %s is always %d; remove this setting", d.Code, status)
	case d.Status < 400 || d.Status > 499:
		return d, fmt.Errorf("status: %d is not from 400 to 499", d.Status)
	case d.Message == "" || len(d.Message) > maxMessage || !utf8.ValidString(d.Message) || strings.ContainsFunc(d.Message, isBreak):
		return d, fmt.Errorf("message: write one line of text for the client, at most %d bytes", maxMessage)
	case d.RetryAfter < 0 || d.RetryAfter > maxRetryAfter || d.RetryAfter%time.Second != 0:
		return d, fmt.Errorf("retry_after: %v is not a number of whole seconds up to %v, such as 30s", d.RetryAfter, maxRetryAfter)
	}
	return d, nil
}

func isBuiltInCode(code Code) bool { return slices.Contains(slices.Collect(maps.Values(codeOf)), code) }

func isBreak(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }

func completeDenials(denials []DeclaredDenial) ([]DeclaredDenial, error) {
	denials = slices.Clone(denials)
	for i, d := range denials {
		d, err := d.Complete()
		for _, previous := range denials[:i] {
			switch {
			case err != nil || previous.Code != d.Code:
			case previous.Reason == d.Reason:
				err = fmt.Errorf("reason: %s is declared twice under the code %s", d.Reason, d.Code)
			case previous.Status != d.Status:
				err = fmt.Errorf("status: %s has the status %d above; a code has only one status", d.Code, previous.Status)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("denials[%d].%w", i, err)
		}
		denials[i] = d
	}
	return denials, nil
}

// denial returns the denial that the API declares for a code and a reason.
func (a *API) denial(code Code, reason Reason) (DeclaredDenial, bool) {
	i := slices.IndexFunc(a.Denials, func(d DeclaredDenial) bool { return d.Code == code && d.Reason == reason })
	if i < 0 {
		return DeclaredDenial{}, false
	}
	return a.Denials[i], true
}

// CanDeny reports whether a policy may deny the API's requests with this code and reason: the pair is built in, or the API declares
// it. An empty code matches any code, and an empty reason matches any reason.
func (a API) CanDeny(code Code, reason Reason) bool {
	matches := func(c Code, r Reason) bool { return (code == "" || code == c) && (reason == "" || reason == r) }
	for r, c := range codeOf {
		if matches(c, r) {
			return true
		}
	}
	return slices.ContainsFunc(a.Denials, func(d DeclaredDenial) bool { return matches(d.Code, d.Reason) })
}
