package main

import (
	"errors"

	"github.com/keywicket/keywicket/store"
)

type sessionCommand struct {
	Revoke sessionRevoke `cmd:"" help:"Revoke a session, or all that a user has begun by now."`
}

type sessionRevoke struct {
	ID   string `arg:"" optional:"" help:"The session's id: the claim session_id of its tokens, and in the decision log." name:"id"`
	User string `help:"All sessions of this user: id or email." placeholder:"U"`
	waiting
}

func (c *sessionRevoke) Run(s *invocation, r *store.Registry, cfg config) error {
	if (c.ID == "") == (c.User == "") {
		return usageError{errors.New("name a session by its id, or else a user: --user")}
	}
	if start, err := visibleStart(cfg, c.ID); err == nil && start != c.ID {
		return errors.New("this is a key, and no session's id: keywicket token revoke ends it")
	}
	var revoked store.RevokedSessions
	var err error
	if c.User != "" {
		revoked, err = r.RevokeSessionsOf(s.ctx, c.User)
	} else {
		revoked, err = r.RevokeSession(s.ctx, c.ID)
	}
	if err != nil {
		return err
	}
	of := [2]string{"session", c.ID}
	if revoked.UserID != nil {
		of = [2]string{"sessions of", *revoked.UserID}
	}
	return c.printOne(s, r, revoked, of, [2]string{"revoked", when(&revoked.RevokedAt)})
}
