package demo

import (
	"context"
	"errors"
	"slices"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/demo/own"
	"github.com/keywicket/keywicket/demo/signin"
)

// Demo is a running Stack with example data.
type Demo struct {
	*Stack
	SignIn *signin.Server // the server on which Velocity's users sign in

	own      *own.Policies // nil: the sample APIs
	keys     []example.Key
	requests []example.Request
	secrets  map[string]authz.Secret // name of a key → its secret
}

// New starts a sign-in server and a stack, and fills the stack's database.
func New(ctx context.Context, c Config) (_ *Demo, err error) {
	d := &Demo{own: c.Own, keys: example.Keys, requests: example.Tour}
	c.Issuer, c.Console = true, c.Own == nil
	if c.Own != nil {
		d.keys, d.requests = c.Own.Examples()
		c.Issuer = c.Own.HasIssuer()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.SignIn, err = signin.Start("127.0.0.1:0"); err != nil {
		return nil, err
	}
	if c.Issuer {
		c.Environ = slices.Concat(d.SignIn.Environ(), c.Environ)
	}
	if d.Stack, err = Start(ctx, c); err != nil {
		return nil, err
	}
	return d, d.seed(ctx)
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
