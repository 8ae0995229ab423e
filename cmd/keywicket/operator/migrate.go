package operator

import (
	"fmt"
	"strconv"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/store/schema"
)

type migrateCommand struct {
	Up     migrateUp     `cmd:"" help:"Run the pending migrations."`
	Status migrateStatus `cmd:"" help:"List the migrations, and the time when each was applied."`
}

type migrateUp struct{}

// Run applies the pending migrations. Several operators may run it concurrently: one of them migrates, and the others wait.
func (migrateUp) Run(s *invocation.Invocation, db *sqlx.DB) error {
	applied, err := schema.Migrate(s.Context, db)
	if err != nil {
		return err
	}
	if len(applied) == 0 && !s.JSON {
		all, err := schema.Status(s.Context, db)
		if err == nil {
			_, err = fmt.Fprintf(s.Stdout, "nothing to do: the database has all %d migrations of this version of keywicket\n", len(all))
		}
		return err
	}
	return invocation.PrintList(s, applied, []string{"APPLIED", "NAME", "TOOK"}, func(a schema.Applied) []string {
		return []string{strconv.FormatInt(a.Version, 10), a.Name, a.Duration.Round(time.Millisecond).String()}
	})
}

type migrateStatus struct{}

func (migrateStatus) Run(s *invocation.Invocation, db *sqlx.DB) error {
	all, err := schema.Status(s.Context, db)
	if err != nil {
		return err
	}
	return invocation.PrintList(s, all, []string{"VERSION", "NAME", "APPLIED"}, func(m schema.Migration) []string {
		applied := "pending"
		if m.AppliedAt != nil {
			applied = invocation.FormatTime(m.AppliedAt)
		}
		return []string{strconv.FormatInt(m.Version, 10), m.Name, applied}
	})
}
