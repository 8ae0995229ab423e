package store

import (
	"errors"
	"fmt"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// What a caller of a Registry may want to tell apart. The errors that match them read as one sentence to the operator.
var (
	// ErrNotFound: what was named does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: something else has this id, slug, email or key.
	ErrExists = errors.New("already exists")
	// ErrInvalid: a value has the wrong form, or does not fit the others.
	ErrInvalid = errors.New("invalid")
	// ErrUnreachable: the database cannot be reached, or refuses the login.
	ErrUnreachable = errors.New("database unreachable")
	// ErrNotMigrated: the schema is missing, or older than this version of keywicket.
	ErrNotMigrated = errors.New("not migrated")
)

// refusal is a sentence for the operator that matches a sentinel.
type refusal struct {
	kind     error
	sentence string
	cause    error // nil where the sentence says all
}

func refuse(kind error, format string, args ...any) *refusal {
	return &refusal{kind: kind, sentence: fmt.Sprintf(format, args...)}
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

// asked fails unless the row that came back is about what was asked for. Behind a pooler that mixes up its clients'
// connections it may be another query's.
func asked(same bool, doing string) error {
	if same {
		return nil
	}
	return errors.New(doing + ": the database's answer is about something else than was asked for, as behind a pooler that mixes up " +
		"the connections of its clients: look what was done before you go on")
}

// suspectPooler adds the remedy to errors that a pooler of transactions causes where queries are prepared.
func suspectPooler(err error) error {
	if pq.As(err, pqerror.InvalidSQLStatementName, pqerror.DuplicatePstatement, pqerror.ProtocolViolation) != nil {
		return fmt.Errorf("%w (if a pooler of transactions stands in front of the database: set database.pooler to transaction)", err)
	}
	return err
}

// explain turns the violation of one of the constraints into its refusal.
func explain(err error, action string, constraints map[string]*refusal) error {
	if violation := pq.As(err); violation != nil {
		if r, ok := constraints[violation.Constraint]; ok && violation.Constraint != "" {
			return r
		}
	}
	return fmt.Errorf("%s: %w", action, err)
}
