package oauth

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/issuer"
)

// client is the app that sends a request.
type client struct {
	issuer.Client
	authenticated bool // the app has sent its correct secret
}

// client returns the app that sends the request, and authenticates it (RFC 6749, sections 2.3.1 and 3.2.1). The credentials are
// either in the Authorization header or in the body. An app that is not confidential needs no secret, but a secret that it sends
// must be correct.
func (s *Server) client(r *http.Request, p parameters) (client, error) {
	id, secret, err := credentials(r, p)
	if err != nil {
		return client{}, err
	}
	c, err := s.app(r, id)
	switch {
	case errors.Is(err, database.ErrNotFound):
		return client{}, invalidClient()
	case err != nil:
		return client{}, err
	case secret == "" && c.Confidential, secret != "" && !c.HasSecret(secret):
		return client{}, invalidClient()
	}
	found := client{c, secret != ""}
	return found, tooManyRequests(s.clients.Take(found.limitKey()))
}

// app returns an app of the issuer's own API. An app of another API is unknown here, because the scopes of that API can have the
// same names but another meaning.
func (s *Server) app(r *http.Request, id string) (issuer.Client, error) {
	c, err := s.grants.Client(r.Context(), id)
	if err == nil && c.API != s.config.API {
		return issuer.Client{}, database.ErrNotFound
	}
	return c, err
}

// limitKey returns the key for the limit of the app's requests. Without the secret, anybody can send requests with the app's
// id. So requests with the secret have a limit of their own.
func (c client) limitKey() string {
	if c.authenticated {
		return "proven " + c.ID
	}
	return c.ID
}

// credentials returns the app's id and secret. The secret is empty if the app sends no secret, or an empty secret.
func credentials(r *http.Request, p parameters) (id string, secret authz.Secret, err error) {
	bodyID, errID := p.optional("client_id")
	bodySecret, errSecret := p.optional("client_secret")
	if err := cmp.Or(errID, errSecret); err != nil {
		return "", "", err
	}
	switch len(r.Header.Values("Authorization")) {
	case 0:
		id, err = p.required("client_id")
		return id, authz.Secret(bodySecret), err
	case 1:
	default:
		return "", "", invalidRequest("there are two Authorization headers: send only one")
	}
	name, password, ok := r.BasicAuth()
	if !ok {
		return "", "", invalidClient()
	}
	// RFC 6749, section 2.3.1: the id and the secret are encoded like form values before they are joined.
	id, errID = url.QueryUnescape(name)
	password, errSecret = url.QueryUnescape(password)
	if errID != nil || errSecret != nil || id == "" {
		return "", "", invalidClient()
	}
	if bodySecret != "" || bodyID != "" && bodyID != id {
		return "", "", invalidRequest("the app authenticates in two ways: use only one")
	}
	return id, authz.Secret(password), nil
}
