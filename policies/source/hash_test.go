package source_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keywicket/keywicket/policies"
)

func TestHashCoversEveryFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	hash := func() string {
		e, err := policies.Load(t.Context(), policies.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return e.Hash()
	}
	seen := map[string]string{hash(): "unchanged"}
	if again := hash(); seen[again] == "" || len(again) != 12 {
		t.Errorf("the same files have the hash %q", again)
	}
	for _, file := range []string{"keywicket/decision.rego", "apis/velocity/data.yaml"} {
		f, err := os.OpenFile(filepath.Join(dir, file), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("\n# changed\n"); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		h := hash()
		if was := seen[h]; was != "" {
			t.Errorf("the hash after a change of %s is also the hash of the files %s", file, was)
		}
		seen[h] = "with a change of " + file
	}
}
