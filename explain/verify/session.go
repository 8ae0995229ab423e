package verify

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// verifySession verifies the token of a session with the verifier of a sidecar, and looks the session up.
func (t Token) verifySession(ctx context.Context, r *registry.Registry) (Result, error) {
	const keyWait = 5 * time.Second // longer than two fetches of keys
	apis := map[string]authz.API{t.sessionAPI: {Session: t.session}}
	verifier, err := session.New(session.Config{APIs: apis, KeyWait: keyWait}, slog.New(slog.DiscardHandler))
	if err != nil {
		return Result{}, err
	}
	defer verifier.Close()
	verified, err := verifier.Verify(ctx, t.sessionAPI, t.secret)
	if err != nil {
		return Result{}, fmt.Errorf("the token of a session cannot be verified: %w: check apis.%s.session.jwks_url, and whether this machine reaches it",
			err, t.sessionAPI)
	}
	setting := "apis." + t.sessionAPI + ".session"
	result := Result{Kind: authz.KindSession, API: t.sessionAPI, Environment: authz.Live}
	if verified.Denial != "" {
		result.refuse(verified.Denial, cmp.Or(verified.Detail, map[authz.Reason]string{
			authz.ReasonMalformed: "the token is not a JWT with all claims of a session",
			authz.ReasonExpired:   "the token has expired",
			authz.ReasonUnknown:   "no key of " + setting + " has signed the token, or the token is not valid yet",
		}[verified.Denial]))
		return result, nil
	}
	s := verified.Session
	found, err := r.LookupSession(ctx, authz.Lookup{Kind: authz.KindSession, Session: s, API: t.sessionAPI})
	if err != nil {
		return Result{}, err
	}
	if err := database.ConfirmRow(found.Denial != "" || found.Principal.UserID == s.UserID, "verify the session"); err != nil {
		return Result{}, err
	}
	result.ID, result.UserID, result.Scopes, result.ExpiresAt = &s.ID, &s.UserID, t.session.Scopes, &verified.Expires
	result.Session = &Session{AAL: verified.AAL, ConsoleOnly: t.session.ConsoleOnly}
	if s.StartedAt > 0 {
		started := time.Unix(s.StartedAt, 0).UTC()
		result.Session.StartedAt = &started
	}
	if found.Denial == authz.ReasonUnknown {
		result.refuse(found.Denial, "the database does not have the user of the session: the claim sub must be the id of a user")
		return result, nil
	}
	u, err := r.User(ctx, s.UserID)
	if err != nil {
		return Result{}, err
	}
	result.Session.MFAEnrolled = u.MFAEnrolled
	result.Owner = &u.Email
	result.Good = true
	switch {
	case found.Denial != "" && u.Banned(time.Now()):
		result.refuse(found.Denial, explainBan(u))
	case found.Denial != "":
		result.refuse(found.Denial, "the session was revoked")
	case t.session.SecondFactorMissing(verified.AAL, found.MFAEnrolled):
		result.refuse(authz.ReasonSecondFactorRequired, "the user has to sign in with a second factor, because of "+setting+".require_aal2")
	}
	return result, nil
}
