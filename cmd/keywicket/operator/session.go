package operator

import (
	"errors"
	"fmt"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/mask"
	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/session"
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

// revokedSessions is the output of the command.
type revokedSessions struct {
	registry.RevokedSessions
	BegunBefore *time.Time `json:"begun_before"` // sessions that begin before this time are revoked; nil for one session
}

func (c *sessionRevoke) Run(s *invocation.Invocation, r *registry.Registry, cfg config.Config) error {
	if (c.ID == "") == (c.User == "") {
		return invocation.Usage(errors.New("give a session's id, or a user with --user"))
	}
	if start, err := mask.Start(cfg.APIs, c.ID); err == nil && start != c.ID {
		return errors.New("this is a key, not a session's id: use keywicket token revoke")
	}
	var revoked registry.RevokedSessions
	var err error
	if c.User != "" {
		revoked, err = r.RevokeUserSessions(s.Context, c.User)
	} else {
		revoked, err = r.RevokeSession(s.Context, c.ID)
	}
	if err != nil {
		return err
	}
	if c.User != "" {
		return c.printUser(s, r, cfg, revoked)
	}
	err = c.printOne(s, r, revokedSessions{RevokedSessions: revoked}, [2]string{"session", c.ID}, [2]string{"revoked", invocation.FormatTime(&revoked.RevokedAt)})
	switch {
	case err != nil || s.JSON:
	case revoked.Seen == nil:
		fmt.Fprintln(s.Stderr, "keywicket has no list of sessions, so the id was not verified: compare it with session_id in the decision log")
	case !*revoked.Seen:
		fmt.Fprintln(s.Stderr, "Supabase Auth has no session with this id: the session has ended, or the id is wrong")
	}
	return err
}

// printUser prints the revocation of all sessions of a user. It also prints which later sessions are revoked too. A sidecar reads the
// leeway from its own configuration, so the output names the setting.
func (c *sessionRevoke) printUser(s *invocation.Invocation, r *registry.Registry, cfg config.Config, revoked registry.RevokedSessions) error {
	f := latestRevocation(cfg.APIs, revoked.RevokedAt)
	before := session.BegunBefore(revoked.RevokedAt, f)
	err := c.printOne(s, r, revokedSessions{revoked, &before}, [2]string{"sessions of", *revoked.UserID},
		[2]string{"revoked", invocation.FormatTime(&revoked.RevokedAt)}, [2]string{"begun before", invocation.FormatTime(&before)})
	if err != nil || s.JSON {
		return err
	}
	why := "the times in tokens are in whole seconds"
	if !f.SharedClock {
		why = fmt.Sprintf("the clocks of the issuer and the database may differ by session.leeway (%v; none is due if session.shared_clock is set)", f.Leeway)
	}
	fmt.Fprintf(s.Stderr, "A session that begins before %s is revoked for its whole life, because %s: sign in again after that time.\n", invocation.FormatTime(&before), why)
	return nil
}

// latestRevocation returns the format of the sessions that a revocation ends last. If the configuration has APIs with sessions, only
// these APIs count.
func latestRevocation(apis map[string]authz.API, revoked time.Time) (latest authz.SessionFormat) {
	names := authz.MatchingAPIs(apis, "", func(a authz.API) bool { return a.Session.Issuer != "" })
	if len(names) == 0 {
		names = authz.MatchingAPIs(apis, "", func(authz.API) bool { return true })
	}
	for n, name := range names {
		if f := apis[name].Session; n == 0 || session.BegunBefore(revoked, f).After(session.BegunBefore(revoked, latest)) {
			latest = f
		}
	}
	return latest
}
