package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/schema"
)

// logins are the database URLs of keywicket's processes. Each login has only the rights of one role.
type logins struct{ sidecar, issuer, console string }

// migrate creates the schema and the logins.
func (s *Stack) migrate(ctx context.Context) (urls logins, err error) {
	db, err := database.Open(s.DatabaseURL())
	if err != nil {
		return urls, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := schema.Migrate(ctx, db); err != nil {
		return urls, err
	}
	for name, target := range map[string]*string{"sidecar": &urls.sidecar, "issuer": &urls.issuer, "console": &urls.console} {
		if *target, err = s.login(ctx, db, "demo_"+name, "keywicket_"+name); err != nil {
			return urls, err
		}
	}
	return urls, nil
}

func (s *Stack) login(ctx context.Context, db *sqlx.DB, name, role string) (string, error) {
	password := rand.Text()
	if _, err := db.ExecContext(ctx, `CREATE ROLE `+name+` LOGIN PASSWORD '`+password+`' IN ROLE `+role); err != nil {
		return "", fmt.Errorf("create the login %s: %w", name, err)
	}
	u, err := url.Parse(s.DatabaseURL())
	if err != nil {
		return "", err
	}
	u.User = url.UserPassword(name, password)
	return u.String(), nil
}
