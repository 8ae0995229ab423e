package settings

import (
	"bytes"
	"flag"
	"image"
	"image/color"
	"image/png"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/example"
)

var picturesDir = flag.String("pictures", "", "folder for the pictures of docs/console.md; empty: take no pictures")

// pictures are the pictures of docs/console.md: the look, and the address below the API's URL.
var pictures = map[string]struct {
	api, path string
	look      look
}{
	"tokens":     {"velaflows", "/developer/api-tokens", look{width: 1280, scheme: "light"}},
	"create":     {"velaflows", "/developer/api-tokens/new", look{width: 1280, scheme: "light"}},
	"phone":      {"velaflows", "/developer/api-tokens", look{width: 360, scheme: "dark"}},
	"keys":       {"velocity", "/api-keys", look{width: 1280, scheme: "dark"}},
	"authorized": {"velocity", "/account/authorized-apps", look{width: 1280, scheme: "light"}},
	"activity":   {"velocity", "/activity", look{width: 1280, scheme: "light"}},
}

// TestPictures takes the pictures if the flag -pictures is set: `make pictures`. It always checks the pictures of the documents.
func TestPictures(t *testing.T) {
	t.Parallel()
	if *picturesDir != "" {
		takePictures(t)
	}
	const docs = "../../docs"
	text, err := os.ReadFile(filepath.Join(docs, "console.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range pictures {
		file := "console-" + name + ".png"
		if !regexp.MustCompile(`!\[[^\]]{40,}\]\(` + regexp.QuoteMeta(file) + `\)`).Match(text) {
			t.Errorf("docs/console.md does not show %s with an alternative text", file)
		}
		content, err := os.ReadFile(filepath.Join(docs, file))
		if err != nil {
			t.Error(err)
		}
		const most = 60 << 10
		if _, err := png.DecodeConfig(bytes.NewReader(content)); err != nil || len(content) > most {
			t.Errorf("%s has %d bytes: %v", file, len(content), err)
		}
	}
}

func takePictures(t *testing.T) {
	t.Helper()
	d := start(t)
	w := d.walk(t, look{width: 1280, scheme: "light"}, false, "OAuth Apps")
	w.signIn(d.Velocity)
	if _, err := demo.NewUser(example.User).Approve(t.Context(), w.consentURL("your_client_id", "http://127.0.0.1:9999"), "Your workspace"); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(pictures)) {
		picture := pictures[name]
		w.page.Size(picture.look.width, 300).Scheme(picture.look.scheme)
		requireStatus(t, w.page, w.page.Visit(d.URLs[picture.api]+"/settings"+picture.path+"?workspace="+example.YourSlug), http.StatusOK)
		if err := os.WriteFile(filepath.Join(*picturesDir, "console-"+name+".png"), small(t, w.page.Screenshot()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// small returns the upper part of a picture with its most frequent colours.
func small(t *testing.T, picture []byte) []byte {
	t.Helper()
	full, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		t.Fatal(err)
	}
	const most, colours = 860, 256
	area := full.Bounds()
	area.Max.Y = min(area.Max.Y, most)
	counts := map[color.Color]int{}
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			counts[color.RGBAModel.Convert(full.At(x, y))]++
		}
	}
	palette := color.Palette(slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return counts[b] - counts[a] }))
	palette = palette[:min(len(palette), colours)]
	reduced := image.NewPaletted(area, palette)
	nearest := map[color.Color]uint8{}
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			c := color.RGBAModel.Convert(full.At(x, y))
			index, ok := nearest[c]
			if !ok {
				index = uint8(palette.Index(c)) //nolint:gosec // at most 256 colours
				nearest[c] = index
			}
			reduced.SetColorIndex(x, y, index)
		}
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, reduced); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
