package api

import (
	_ "embed"
	"net/http"
)

// Document is the API's OpenAPI document.
//
//go:embed openapi.json
var Document []byte

// document answers with the OpenAPI document. It needs no caller.
func (a *API) document(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		a.refuse(w, r, methodNotAllowed(http.MethodGet))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(Document) // an error means that the client has closed the connection
}
