package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/keywicket/keywicket/store"
)

type sidecarCommand struct {
	List sidecarList `cmd:"" help:"List the sidecars that are running, or were within the last hour."`
}

type sidecarList struct{}

func (c *sidecarList) Run(s *invocation, r *store.Registry) error {
	all, err := r.Sidecars(s.ctx)
	if err != nil {
		return err
	}
	titles := []string{"ID", "VERSION", "POLICIES", "LEASE", "LAG", "SEEN", "ALIVE"}
	return printList(s, all, titles, func(sidecar store.Sidecar) []string {
		alive := "no"
		if sidecar.Alive {
			alive = "yes"
		}
		return []string{
			sidecar.ID, sidecar.Version, sidecar.Policies, sidecar.Lease.Round(time.Millisecond).String(),
			sidecar.Lag.Round(10 * time.Microsecond).String(), when(sidecar.SeenAt), alive,
		}
	})
}

// waiting is for commands that end or change rights.
type waiting struct {
	Wait bool `help:"Return when no sidecar answers from before the change any more."`
}

// printOne writes the object, and what was waited for.
func (w waiting) printOne(s *invocation, r *store.Registry, object any, fields ...[2]string) error {
	if !w.Wait {
		return printOne(s, object, fields...)
	}
	barrier, err := r.Wait(s.ctx)
	if err != nil {
		return fmt.Errorf("the change is made; whether every sidecar knows of it could not be found out: %w", err)
	}
	if !s.json {
		return printOne(s, nil, append(fields, [2]string{"sidecars", barrier.String()})...)
	}
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	all := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // attributes may have numbers that a float64 would round
	if err := decoder.Decode(&all); err != nil {
		return err
	}
	all["barrier"] = barrier
	return printOne(s, all)
}
