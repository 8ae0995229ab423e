package folder_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywicket/keywicket/policies/folder"
)

// TestOpenWhileVersionsChange replaces a ConfigMap's version again and again, as Kubernetes does. All files that Open returns must
// belong to one version.
func TestOpenWhileVersionsChange(t *testing.T) {
	t.Parallel()
	const files = 20
	dir := t.TempDir()
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	version := func(n int) string { return filepath.Join(dir, fmt.Sprintf("..version_%d", n)) }
	mount := func(n int) {
		must(os.Mkdir(version(n), 0o700))
		for i := range files {
			must(os.WriteFile(filepath.Join(version(n), fmt.Sprintf("%d.rego", i)), fmt.Appendf(nil, "# version %d", n), 0o600))
		}
		must(os.Symlink(filepath.Base(version(n)), filepath.Join(dir, "..data_tmp")))
		must(os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		must(os.RemoveAll(version(n - 1)))
	}
	mount(0)
	for i := range files {
		must(os.Symlink(fmt.Sprintf("..data/%d.rego", i), filepath.Join(dir, fmt.Sprintf("%d.rego", i))))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				mount(n)
			}
		}
	}()
	for range 200 {
		opened, err := folder.Open(dir)
		if err != nil {
			t.Error(err)
			break
		}
		for _, file := range opened.Files {
			if string(file.Text) != string(opened.Files[0].Text) {
				t.Fatalf("%s has %q, %s has %q", opened.Files[0].Name, opened.Files[0].Text, file.Name, file.Text)
			}
		}
	}
	close(stop)
	<-stopped
}
