// Package static serves the style and the script of the pages. The name of a file contains a digest of its content, so browsers can
// keep the file.
package static

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"time"
)

//go:embed console.css console.js
var files embed.FS

// Style and Script are the names under which the files are served, such as console.1f3870be.css.
var (
	Style  = nameOf("console.css")
	Script = nameOf("console.js")
)

func nameOf(file string) string {
	sum := sha256.Sum256(contentOf(file))
	extension := path.Ext(file)
	return file[:len(file)-len(extension)] + "." + hex.EncodeToString(sum[:8]) + extension
}

func contentOf(file string) []byte {
	content, err := files.ReadFile(file)
	if err != nil {
		panic(err) // the file is part of the program
	}
	return content
}

// Serve writes the file with the name [Style] or [Script].
func Serve(w http.ResponseWriter, r *http.Request, name string) {
	file := map[string]string{Style: "console.css", Script: "console.js"}[name]
	if file == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, file, time.Time{}, bytes.NewReader(contentOf(file)))
}
