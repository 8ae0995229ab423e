package demo

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/keywicket/keywicket/authz"
)

// Demo is a Stack with data to try it on.
type Demo struct {
	*Stack
	secrets map[string]authz.Secret // by the key's name
}

// New starts a stack and fills its database.
func New(ctx context.Context, c Config) (*Demo, error) {
	stack, err := Start(ctx, c)
	if err != nil {
		return nil, err
	}
	secrets, err := seed(ctx, stack.DatabaseURL())
	if err != nil {
		_ = stack.Close()
		return nil, err
	}
	return &Demo{Stack: stack, secrets: secrets}, nil
}

// Print tells what runs, and how to try it.
func (d *Demo) Print(w io.Writer) error {
	fmt.Fprintf(w, "\nVelaFlows at %s, Velocity at %s.\n\nKeys:\n\n", d.VelaFlows, d.Velocity)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, k := range keys {
		owner := k.workspace
		if k.user != "" {
			owner = k.user
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", k.api, k.name, owner, d.secrets[k.name].Reveal())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprint(w, "\nRequests to paste:\n")
	for _, t := range tour {
		fmt.Fprintf(w, "\n  # %s: %s\n  %s\n", t.why, t.want, d.curl(t))
	}
	fmt.Fprintf(w, `
In a second terminal, to make and revoke keys of your own:

  export KEYWICKET_DATABASE_URL='%s'
  bin/keywicket token create --prefix sk_live_ --workspace acme --name mine --scope inbox:read
  bin/keywicket token list
  bin/keywicket token revoke ID

Ctrl-C stops everything and removes it.
`, d.DatabaseURL())
	return nil
}
