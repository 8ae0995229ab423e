package registry

import (
	"context"
	"database/sql"
	"errors"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/attributes"
	"github.com/keywicket/keywicket/store/database"
)

// setAttributes replaces the attributes of a row. It does nothing if the row does not exist.
func (r *Registry) setAttributes(ctx context.Context, table, id string, a authz.Attributes) error {
	text, err := attributes.JSON(a)
	if err != nil {
		return err
	}
	var changed string
	err = r.db.GetContext(ctx, &changed, `UPDATE keywicket.`+table+` SET attributes = $2 WHERE id = $1 RETURNING id`, id, text)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return database.ConstraintError(err, "set the attributes", map[string]error{table + "_attributes_form": attributes.ErrRefused})
	}
	return database.ConfirmRow(changed == id, "set the attributes")
}
