package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/console/settings"
)

// operation is one operation of openapi.json. It returns the answer to a request of the caller.
type operation func(*http.Request, settings.Caller) (answer, error)

// answer is the answer to a successful request.
type answer struct {
	body any
	// created means that the request has created an object. If repeated is true, an earlier request with the same idempotency key
	// has created it.
	created, repeated bool
}

// operations returns the operations by path, below [Path], and method.
func (a *API) operations() map[string]map[string]operation {
	all := map[string]map[string]operation{
		"/workspaces":       {http.MethodGet: a.listWorkspaces},
		"/workspace":        {http.MethodGet: a.readWorkspace, http.MethodPatch: a.changeWorkspace},
		"/activity":         {http.MethodGet: a.listActivity},
		"/apps":             {http.MethodGet: a.listApps, http.MethodPost: a.createApp},
		"/apps/{id}":        {http.MethodGet: a.readApp, http.MethodDelete: a.deleteApp},
		"/apps/{id}/rotate": {http.MethodPost: a.rotateApp},
		"/grants":           {http.MethodGet: a.listGrants},
		"/grants/{id}":      {http.MethodDelete: a.revokeGrant},
		"/account/activity": {http.MethodGet: a.listAccountActivity},
	}
	maps.Copy(all, tokens{a.settings, settings.OfWorkspace}.operations("/tokens", "/scopes"))
	maps.Copy(all, tokens{a.settings, settings.OfUser}.operations("/personal-keys", "/personal-scopes"))
	return all
}

// Handler returns the handler of the paths below [Path].
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	for path, methods := range a.operations() {
		mux.HandleFunc(Path+path, func(w http.ResponseWriter, r *http.Request) {
			run, ok := methods[r.Method]
			if !ok {
				a.refuse(w, r, methodNotAllowed(slices.Sorted(maps.Keys(methods))...))
				return
			}
			a.serve(w, r, run)
		})
	}
	mux.HandleFunc(Path+"/openapi.json", a.document)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { a.refuse(w, r, errNoRoute) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if clean := path.Clean(r.URL.Path); clean != r.URL.Path { // the mux would answer with a redirect to the clean path
			a.refuse(w, r, errNoRoute)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// serve runs an operation on behalf of the request's caller, and writes the answer.
func (a *API) serve(w http.ResponseWriter, r *http.Request, run operation) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	c, err := a.caller(r)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	result, err := run(r, c)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	status := http.StatusOK
	if result.created {
		status = http.StatusCreated
	}
	if result.repeated {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	respond(w, status, result.body)
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the client has closed the connection
}

// methodNotAllowed returns the error for a method that the path does not have.
func methodNotAllowed(methods ...string) error {
	return &refusal{
		status: http.StatusMethodNotAllowed, Code: "METHOD_NOT_ALLOWED", Reason: "method_not_allowed",
		Message: "This path has only the methods " + strings.Join(methods, ", ") + ".", allow: methods,
	}
}
