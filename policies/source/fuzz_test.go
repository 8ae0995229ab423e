package source

import (
	"reflect"
	"testing"
	"testing/fstest"

	"github.com/open-policy-agent/opa/v1/loader"
)

// FuzzFacts reads a file of facts with the sidecar and with OPA's two loaders. All three must return the same value. If a loader
// refuses the file, or the loaders differ, the sidecar must refuse the file.
func FuzzFacts(f *testing.F) {
	for _, text := range []string{
		"", "a: 1", "[1, ~]", `{"a": 12345678901234567890123}`, `{"a": 1.0}`, "a: yes", "a: &x {b: 1}\nc: {<<: *x}", "a: 1\n---\n[", "{}]",
		"\uFEFF{}", "\uFEFFa: 1", "1: a\ntrue: b", "a: 2026-11-27", "a: .inf", "%YAML 1.1\n---\na: on", "a: !!binary aGVsbG8=", "a: \"\xff\"",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"facts/a/data.yaml", "facts/a/data.json"} {
			files := fstest.MapFS{name: {Data: []byte(text)}}
			plain, plainErr := loader.NewFileLoader().WithFS(files).Filtered([]string{"."}, nil)
			bundle, bundleErr := loader.NewFileLoader().WithFS(files).AsBundle(".")
			var sidecar facts
			err := sidecar.add(name, []byte(text))
			if plainErr != nil || bundleErr != nil || !reflect.DeepEqual(plain.Documents, bundle.Data) {
				if err == nil {
					t.Fatalf("%q in %s is read as %v; opa test returns %v; opa test -b returns %v", text, name, sidecar.merged, plainErr, bundleErr)
				}
				continue
			}
			if err != nil || !reflect.DeepEqual(sidecar.merged, plain.Documents) {
				t.Fatalf("%q in %s is read as %v, %v; opa reads %v", text, name, sidecar.merged, err, plain.Documents)
			}
		}
	})
}
