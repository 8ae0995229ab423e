package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/signin"
)

// Demo is a running Stack with example data.
type Demo struct {
	*Stack
	SignIn  *signin.Server          // the server on which Velocity's users sign in
	secrets map[string]authz.Secret // name of a key → its secret
}

// New starts a sign-in server and a stack, and fills the stack's database.
func New(ctx context.Context, c Config) (_ *Demo, err error) {
	d := &Demo{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.SignIn, err = signin.Start("127.0.0.1:0"); err != nil {
		return nil, err
	}
	c.Issuer, c.Environ = true, slices.Concat(d.SignIn.Environ(), c.Environ)
	if d.Stack, err = Start(ctx, c); err != nil {
		return nil, err
	}
	d.secrets, err = seed(ctx, d.DatabaseURL(), d.SignIn)
	return d, err
}

// Close stops the stack and the sign-in server.
func (d *Demo) Close() error {
	var errs []error
	if d.Stack != nil {
		errs = append(errs, d.Stack.Close())
	}
	if d.SignIn != nil {
		errs = append(errs, d.SignIn.Close())
	}
	return errors.Join(errs...)
}

// Print writes the addresses, the keys and example requests.
func (d *Demo) Print(w io.Writer) error {
	fmt.Fprintf(w, "\nVelaFlows at %s, Velocity at %s.\n\nKeys, and the tokens of two sessions:\n\n", d.VelaFlows, d.Velocity)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, k := range keys {
		owner := k.workspace
		if k.user != "" {
			owner = k.user
		}
		shown := d.secrets[k.name].Reveal()
		if k.variable != "" {
			shown = "$" + k.variable
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", k.api, k.name, owner, shown)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, k := range keys {
		if k.variable != "" { // the secret is a token that is too long for the table
			fmt.Fprintf(w, "  %s=%s\n", k.variable, d.secrets[k.name].Reveal())
		}
	}
	fmt.Fprint(w, "\nRequests to paste:\n")
	for _, t := range tour {
		fmt.Fprintf(w, "\n  # %s: %s\n  %s\n", t.why, t.want, d.curl(t))
	}
	fmt.Fprint(w, d.curlFlow())
	fmt.Fprintf(w, `
To create and revoke your own keys, run in a second terminal:

  export KEYWICKET_DATABASE_URL='%s'
  bin/keywicket token create --prefix sk_live_ --workspace acme --name mine --scope inbox:read
  bin/keywicket token list
  bin/keywicket token revoke ID
  bin/keywicket session revoke --user ada@example.com
  bin/keywicket grant list

Ctrl-C stops everything and removes it.
`, d.DatabaseURL())
	return nil
}
