package pages

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"time"
)

// staticPath is the path of the style and of the script, below Config.Path. The name of a file contains a digest of its content, so
// browsers can keep the file.
const staticPath = "/static/"

//go:embed static
var staticFiles embed.FS

var styleName, scriptName = staticName("console.css"), staticName("console.js")

// staticName returns the name under which a file is served, such as console.1f3870be.css.
func staticName(file string) string {
	sum := sha256.Sum256(staticContent(file))
	extension := path.Ext(file)
	return file[:len(file)-len(extension)] + "." + hex.EncodeToString(sum[:8]) + extension
}

func staticContent(file string) []byte {
	content, err := staticFiles.ReadFile("static/" + file)
	if err != nil {
		panic(err) // the file is part of the program
	}
	return content
}

func serveStatic(w http.ResponseWriter, r *http.Request, name string) {
	file := map[string]string{styleName: "console.css", scriptName: "console.js"}[name]
	if file == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, file, time.Time{}, bytes.NewReader(staticContent(file)))
}
