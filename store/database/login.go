package database

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// roleError is an error of a statement that only a login with the role may run.
type roleError struct {
	error
	role string
}

func (e roleError) Unwrap() error { return e.error }

// NeedsRole adds the role that a login needs for the statement that failed with err. [AddLoginRemedy] names this role. Without
// NeedsRole, it names keywicket_operator.
func NeedsRole(role string, err error) error { return roleError{err, role} }

// AddLoginRemedy adds a remedy to an error that Postgres returns because the login of the database URL lacks a right, or because its
// transactions are read-only. A frequent cause is that an operator's command uses the database URL of a sidecar. For any other error,
// and if the database does not answer, AddLoginRemedy returns err unchanged.
func AddLoginRemedy(ctx context.Context, databaseURL string, err error) error {
	if pq.As(err, pqerror.ReadOnlySQLTransaction) != nil {
		return fmt.Errorf("%w (the server is a standby, or default_transaction_read_only is on: use the primary server)", err)
	}
	if pq.As(err, pqerror.InsufficientPrivilege) == nil {
		return err
	}
	db, openErr := Open(databaseURL)
	if openErr != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var found struct {
		Login     string `db:"login"`
		Role      string `db:"role"`      // operator, sidecar, issuer, console, or empty
		Owner     string `db:"owner"`     // owner of the schema keywicket; empty: there is no schema
		Operators bool   `db:"operators"` // the role keywicket_operator has its rights in this database
	}
	queryErr := DoWithTimeout(ctx, 5*time.Second, func(ctx context.Context) error {
		return db.GetContext(ctx, &found, `
			SELECT current_user AS login,
			       COALESCE((SELECT substr(rolname, 11) FROM pg_roles
			                 WHERE rolname IN ('keywicket_operator', 'keywicket_sidecar', 'keywicket_issuer', 'keywicket_console') AND pg_has_role(oid, 'MEMBER')
			                 ORDER BY rolname <> 'keywicket_operator' LIMIT 1), '') AS role,
			       COALESCE((SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'keywicket'), '') AS owner,
			       EXISTS (SELECT FROM pg_roles r, pg_namespace n WHERE rolname = 'keywicket_operator' AND nspname = 'keywicket'
			               AND has_schema_privilege(r.oid, n.oid, 'USAGE')) AS operators`)
	})
	if queryErr != nil {
		return err
	}
	cause := "does not have this right"
	switch found.Role {
	case "":
	case "operator":
		cause = "has the role keywicket_operator, which does not have this right"
	default:
		cause = fmt.Sprintf("has the role keywicket_%s, which is only for the %[1]s", found.Role)
	}
	remedy := "use a login that may create a schema in this database"
	if found.Owner != "" {
		remedy = fmt.Sprintf("use %s, the owner of the schema keywicket", found.Owner)
	}
	if found.Operators && found.Role != "operator" {
		remedy = "use a login with the role keywicket_operator; for migrations, " + remedy
	}
	if needed, ok := errors.AsType[roleError](err); ok {
		remedy = "use a login with the role " + needed.role
	}
	return fmt.Errorf("%w (the login %s %s: %s)", err, found.Login, cause, remedy)
}

// CheckPrivileges returns the error for the result of a query that lists the privileges a login lacks. The error names the remedy: a
// migration, and the role that has the privileges. If the login may not use the schema keywicket, or if the schema or a table is missing,
// Postgres refuses the query itself, and the remedy is the same.
func CheckPrivileges(role string, missing []string, err error) error {
	remedy := "run keywicket migrate up, and grant the role " + role + " to the login"
	switch {
	case pq.As(err, pqerror.InsufficientPrivilege, pqerror.UndefinedTable, pqerror.InvalidSchemaName) != nil:
		return fmt.Errorf("%w: %s", err, remedy)
	case err != nil:
		return fmt.Errorf("query the database: %w", err)
	case len(missing) > 0:
		return fmt.Errorf("the login lacks privileges (%s): %s", strings.Join(missing, ", "), remedy)
	}
	return nil
}
