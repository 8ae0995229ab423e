package database

import (
	"errors"
	"fmt"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// These are the kinds of errors for the operator. If errors.Is finds one of these kinds in an error, the error's text is one
// sentence.
var (
	// ErrNotFound means that the object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists means that an object with this id, slug, email or key already exists.
	ErrExists = errors.New("already exists")
	// ErrInvalid means that a value has the wrong form, or contradicts the other values.
	ErrInvalid = errors.New("invalid")
	// ErrUnreachable means that the database cannot be reached, or rejects the login.
	ErrUnreachable = errors.New("database unreachable")
	// ErrNotMigrated means that the schema is missing, or is older than this version of keywicket.
	ErrNotMigrated = errors.New("not migrated")
)

// refusal is an error for the operator. It has one sentence, and one of the Err… values as its kind.
type refusal struct {
	kind     error
	sentence string
	cause    error // its text follows the sentence; nil: there is no cause
}

// NewRefusal returns an error for the operator. It wraps the parameter `kind`, which must be one of the Err… values. [fmt.Sprintf]
// formats the sentence.
func NewRefusal(kind error, format string, args ...any) error {
	return &refusal{kind: kind, sentence: fmt.Sprintf(format, args...)}
}

// RefuseBecause is like [NewRefusal], but adds the text of the cause to the sentence. The error wraps the kind and the cause.
func RefuseBecause(kind error, sentence string, cause error) error {
	return &refusal{kind: kind, sentence: sentence, cause: cause}
}

func (r *refusal) Error() string {
	if r.cause != nil {
		return r.sentence + ": " + r.cause.Error()
	}
	return r.sentence
}

func (r *refusal) Unwrap() []error {
	if r.cause != nil {
		return []error{r.kind, r.cause}
	}
	return []error{r.kind}
}

// ConfirmRow returns an error if matches is false. The caller compares the returned row with the arguments of the query, and
// passes the result of this comparison as matches. The row can be wrong: a misconfigured pooler can mix up the connections of its
// clients, and return the row of another query.
func ConfirmRow(matches bool, action string) error {
	if matches {
		return nil
	}
	return errors.New(action + ": the database returned the answer to another query, probably because a pooler mixes up the connections of " +
		"its clients: check what was done before you continue")
}

// AddPoolerRemedy adds a remedy to an error that prepared statements cause behind a transaction pooler.
func AddPoolerRemedy(err error) error {
	if pq.As(err, pqerror.InvalidSQLStatementName, pqerror.DuplicatePstatement, pqerror.ProtocolViolation) != nil {
		return fmt.Errorf("%w (if the database is behind a transaction pooler: set database.pooler to transaction)", err)
	}
	return err
}

// ConstraintError returns the refusal for the constraint that was violated. The parameter `constraints` maps the names of
// constraints to refusals. For every other error, ConstraintError wraps err and adds the action to its text.
func ConstraintError(err error, action string, constraints map[string]error) error {
	if violation := pq.As(err); violation != nil {
		if r, ok := constraints[violation.Constraint]; ok && violation.Constraint != "" {
			return r
		}
	}
	return fmt.Errorf("%s: %w", action, err)
}
