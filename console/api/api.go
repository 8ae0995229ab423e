// Package api is the management API: the console's operations as JSON. All requests come through the sidecar, which authenticates
// the caller. The sidecar's headers name the caller, so only Envoy may reach this server.
//
// openapi.json describes the operations. A test compares it with the handlers.
package api

import (
	"log/slog"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
)

// Path is the start of the paths of all operations.
const Path = "/api/keywicket/v1"

// API serves the operations. It is safe for concurrent use.
type API struct {
	apis     map[string]settings.API
	settings *settings.Settings
	store    *console.Store
	log      *slog.Logger
}

// New returns the management API of several APIs.
func New(apis map[string]settings.API, s *settings.Settings, store *console.Store, log *slog.Logger) *API {
	return &API{apis: apis, settings: s, store: store, log: log}
}
