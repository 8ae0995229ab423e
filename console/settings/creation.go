package settings

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/registry"
)

// Created is the result of a creation. Secret is empty if an earlier request has created the object: the secret is shown only once.
type Created[T any] struct {
	Object   T
	Secret   authz.Secret
	Repeated bool
}

// creation creates an object once: a repetition of the request, with the same idempotency key, finds the object.
type creation[T any] struct {
	key     string // the idempotency key; empty: each request creates an object
	request string // equal for equal requests
	create  func(*registry.Registry, *sqlx.Tx) (T, authz.Secret, error)
	id      func(T) string
	find    func(id string) (T, error)
}

// run runs the creation in a transaction on behalf of the caller.
func (n creation[T]) run(ctx context.Context, s *Settings, c Caller) (created Created[T], err error) {
	var id string
	err = s.change(ctx, c, func(r *registry.Registry, tx *sqlx.Tx) error {
		id, created.Repeated, err = console.Once(ctx, tx, console.Creation{Caller: c.Actor.ID, Key: n.key, Request: n.request}, func() (string, error) {
			created.Object, created.Secret, err = n.create(r, tx)
			return n.id(created.Object), err
		})
		return err
	})
	if err == nil && created.Repeated { // not in the transaction: find may need a connection of its own, and others wait for this one
		created.Object, err = n.find(id)
	}
	if err != nil {
		return Created[T]{}, err
	}
	return created, nil
}
