package main

import (
	"errors"
	"fmt"

	"github.com/keywicket/keywicket/authz/mask"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/registry"
)

type sessionCommand struct {
	Revoke sessionRevoke `cmd:"" help:"Revoke one session, or all sessions that a user has started so far."`
}

type sessionRevoke struct {
	ID   string `arg:"" optional:"" help:"The session's id: the claim session_id of its tokens. The decision log contains this id too." name:"id"`
	User string `help:"All sessions of this user: id or email." placeholder:"U"`
	waitFlag
}

func (c *sessionRevoke) Run(s *invocation, r *registry.Registry, cfg config.Config) error {
	if (c.ID == "") == (c.User == "") {
		return usageError{errors.New("give a session's id, or a user with --user")}
	}
	if start, err := mask.Start(cfg.APIs, c.ID); err == nil && start != c.ID {
		return errors.New("this is a key, not a session's id: use keywicket token revoke")
	}
	var revoked registry.RevokedSessions
	var err error
	if c.User != "" {
		revoked, err = r.RevokeUserSessions(s.ctx, c.User)
	} else {
		revoked, err = r.RevokeSession(s.ctx, c.ID)
	}
	if err != nil {
		return err
	}
	subject := [2]string{"session", c.ID}
	if revoked.UserID != nil {
		subject = [2]string{"sessions of", *revoked.UserID}
	}
	err = c.printOne(s, r, revoked, subject, [2]string{"revoked", formatTime(&revoked.RevokedAt)})
	switch {
	case err != nil || s.json || c.User != "":
	case revoked.Seen == nil:
		fmt.Fprintln(s.stderr, "keywicket has no list of sessions, so the id was not verified: compare it with session_id in the decision log")
	case !*revoked.Seen:
		fmt.Fprintln(s.stderr, "Supabase Auth has no session with this id: the session has ended, or the id is wrong")
	}
	return err
}
