package api

import (
	"net/http"
	"time"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/registry"
)

// app is an OAuth app without its secret.
type app struct {
	ID           string          `json:"id"`
	Name         string          `json:"name"`
	RedirectURIs []string        `json:"redirect_uris"`
	Scopes       []string        `json:"scopes"`
	Confidential bool            `json:"confidential"`
	Development  bool            `json:"development"`
	Status       registry.Status `json:"status"`
	Users        int             `json:"users"`
	CreatedAt    time.Time       `json:"created_at"`
	RevokedAt    *time.Time      `json:"revoked_at"`
}

func newApp(a console.App) app {
	return app{
		ID: a.ID, Name: a.Name, RedirectURIs: append([]string{}, a.RedirectURIs...), Scopes: append([]string{}, a.Scopes...),
		Confidential: a.Confidential, Development: a.Development, Status: a.Status, Users: a.Users, CreatedAt: a.CreatedAt, RevokedAt: a.RevokedAt,
	}
}

type appList struct {
	Apps []app `json:"apps"`
}

// createdApp is an app with its new secret.
type createdApp struct {
	app
	Secret *string `json:"client_secret"`
}

func (a *API) listApps(r *http.Request, c settings.Caller) (answer, error) {
	found, err := a.settings.Apps(r.Context(), c)
	list := appList{Apps: []app{}}
	for _, f := range found {
		list.Apps = append(list.Apps, newApp(f))
	}
	return answer{body: list}, err
}

type newAppRequest struct {
	Name         string   `json:"name"`
	RedirectURIs []string `json:"redirect_uris"`
	Scopes       []string `json:"scopes"`
	Confidential bool     `json:"confidential"`
	Development  bool     `json:"development"`
}

func (a *API) createApp(r *http.Request, c settings.Caller) (answer, error) {
	key, err := idempotencyKey(r)
	if err != nil {
		return answer{}, err
	}
	var n newAppRequest
	if err := readBody(r, &n); err != nil {
		return answer{}, err
	}
	created, err := a.settings.RegisterApp(r.Context(), c, settings.NewApp{
		Name: n.Name, RedirectURIs: n.RedirectURIs, Scopes: n.Scopes, Confidential: n.Confidential, Development: n.Development, IdempotencyKey: key,
	})
	body := createdApp{newApp(created.Object), orNil(created.Secret.Reveal())}
	return answer{body: body, created: true, repeated: created.Repeated}, err
}

func (a *API) readApp(r *http.Request, c settings.Caller) (answer, error) {
	id, err := pathID(r)
	if err != nil {
		return answer{}, err
	}
	found, err := a.settings.App(r.Context(), c, id)
	return answer{body: newApp(found)}, err
}

func (a *API) rotateApp(r *http.Request, c settings.Caller) (answer, error) {
	id, err := pathID(r)
	if err != nil {
		return answer{}, err
	}
	rotated, secret, err := a.settings.RotateAppSecret(r.Context(), c, id)
	return answer{body: createdApp{newApp(rotated), orNil(secret.Reveal())}}, err
}

func (a *API) deleteApp(r *http.Request, c settings.Caller) (answer, error) {
	id, err := pathID(r)
	if err != nil {
		return answer{}, err
	}
	deleted, err := a.settings.RevokeApp(r.Context(), c, id)
	return answer{body: newApp(deleted)}, err
}
