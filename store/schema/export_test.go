package schema

import (
	"context"

	"github.com/jmoiron/sqlx"
)

// MigrateTo runs the migrations up to the version.
func MigrateTo(ctx context.Context, db *sqlx.DB, version int64) error {
	provider, err := migrations(db)
	if err != nil {
		return err
	}
	_, err = provider.UpTo(ctx, version)
	return err
}
