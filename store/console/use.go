package console

import (
	"context"
	"fmt"
	"time"

	"github.com/lib/pq"

	"github.com/keywicket/keywicket/store/database"
)

// Day is a token's number of requests on one day. Days are those of UTC, by the database's clock.
type Day struct {
	Day     time.Time `json:"day"`
	Allowed int64     `json:"allowed"`
	Denied  int64     `json:"denied"`
}

// MaxDays is the maximum number of days of [Store.Use]. Counts of older days are deleted.
const MaxDays = 400

// Use returns the requests of a token on the last days, oldest first. The last day is today. A day without requests has zeros. The
// token need not exist.
func (s *Store) Use(ctx context.Context, id string, days int) ([]Day, error) {
	if days < 1 || days > MaxDays {
		return nil, database.NewRefusal(database.ErrInvalid, "the number of days must be from 1 to %d", MaxDays)
	}
	use, err := s.use(ctx, []string{id}, days)
	return use[id], err
}

// use returns the requests of each token.
func (s *Store) use(ctx context.Context, ids []string, days int) (map[string][]Day, error) {
	var rows []struct {
		Today   time.Time `db:"today"`
		ID      *string   `db:"token_id"`
		Ago     int       `db:"ago"`
		Allowed int64     `db:"allowed"`
		Denied  int64     `db:"denied"`
	}
	// If no token was used, the result has one row, without a token.
	err := s.db.SelectContext(ctx, &rows, `
		SELECT now.today, u.token_id, COALESCE(now.today - u.day, 0) AS ago, COALESCE(u.allowed, 0) AS allowed, COALESCE(u.denied, 0) AS denied
		FROM (SELECT (statement_timestamp() AT TIME ZONE 'UTC')::date AS today) AS now
		LEFT JOIN keywicket.token_use u ON u.token_id = ANY ($1) AND u.day > now.today - $2::int AND u.day <= now.today`,
		pq.StringArray(ids), days)
	if err != nil {
		return nil, fmt.Errorf("read the use of tokens: %w", err)
	}
	use := make(map[string][]Day, len(ids))
	for _, id := range ids {
		use[id] = make([]Day, days)
		for i := range use[id] {
			use[id][i].Day = rows[0].Today.AddDate(0, 0, i+1-days)
		}
	}
	for _, r := range rows {
		if r.ID != nil {
			d := &use[*r.ID][days-1-r.Ago]
			d.Allowed, d.Denied = r.Allowed, r.Denied
		}
	}
	return use, nil
}
