package api

import "net/http"

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

// ReadNewToken reads the body of a request that creates a token.
func ReadNewToken(r *http.Request) (any, error) {
	var n newTokenRequest
	err := readBody(r, &n)
	return n, err
}

// ReadQuery reads the query of a request.
func ReadQuery(r *http.Request, known ...string) (map[string]string, error) {
	return readQuery(r, known...)
}
