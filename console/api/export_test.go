package api

// Routes returns the methods of each path below [Path].
func Routes() map[string][]string {
	routes := map[string][]string{}
	for path, methods := range (&API{}).operations() {
		for method := range methods {
			routes[path] = append(routes[path], method)
		}
	}
	return routes
}

// RequestBodies maps the name of a schema to the struct into which the API decodes it.
var RequestBodies = map[string]any{"NewToken": newTokenRequest{}, "Rotation": rotationRequest{}, "WorkspaceChange": workspaceRequest{}, "NewApp": newAppRequest{}}
