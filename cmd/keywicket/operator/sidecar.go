package operator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/sidecars"
)

type sidecarCommand struct {
	List sidecarList `cmd:"" help:"List the sidecars that are running or ran within the last hour."`
}

type sidecarList struct{}

func (c *sidecarList) Run(s *invocation.Invocation, r *registry.Registry) error {
	all, err := r.Sidecars(s.Context)
	if err != nil {
		return err
	}
	titles := []string{"ID", "VERSION", "POLICIES", "LEASE", "LAG", "SEEN", "ALIVE"}
	return invocation.PrintList(s, all, titles, func(sidecar sidecars.Sidecar) []string {
		alive := "no"
		if sidecar.Alive {
			alive = "yes"
		}
		return []string{
			sidecar.ID, sidecar.Version, sidecar.Policies, sidecar.Lease.Round(time.Millisecond).String(),
			sidecar.Lag.Round(10 * time.Microsecond).String(), invocation.FormatTime(sidecar.SeenAt), alive,
		}
	})
}

// waitFlag is the --wait flag of commands that change or revoke rights.
type waitFlag struct {
	Wait bool `help:"Wait until no sidecar uses data from before the change."`
}

// printOne writes the object. With --wait, it first waits for the sidecars, and writes the result of the wait too.
func (w waitFlag) printOne(s *invocation.Invocation, r *registry.Registry, object any, rows ...[2]string) error {
	if !w.Wait {
		return invocation.PrintOne(s, object, rows...)
	}
	barrier, err := r.WaitForSidecars(s.Context)
	if err != nil {
		return fmt.Errorf("the change is stored, but the wait for the sidecars failed: %w", err)
	}
	if !s.JSON {
		return invocation.PrintOne(s, nil, append(rows, [2]string{"sidecars", barrier.String()})...)
	}
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	fields := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // attributes may contain numbers that a float64 would round
	if err := decoder.Decode(&fields); err != nil {
		return err
	}
	fields["barrier"] = barrier
	return invocation.PrintOne(s, fields)
}
