package demo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/keywicket/keywicket/demo/process"
)

// folder contains every file of a stack. The shell `remover` removes the folder even if this process is killed. The shell reads
// from a pipe until no process has the other end open, and only this process has that end open.
type folder struct {
	path    string
	pipe    io.Closer
	remover *exec.Cmd
}

// removeScript waits until its standard input is closed. Then it removes the folder in its argument. It tries several times,
// because the servers may still write for a moment after this process was killed. It ignores the signals of the terminal and of a
// shutdown.
const removeScript = `trap '' HUP INT TERM
cat > /dev/null
for try in 1 2 3 4 5; do
	rm -rf -- "$1" && exit
	sleep 1
done`

func newFolder() (*folder, error) {
	path, err := os.MkdirTemp("", "keywicket-demo-")
	if err != nil {
		return nil, fmt.Errorf("create a folder: %w", err)
	}
	f := &folder{path: path, remover: exec.Command("sh", "-c", removeScript, "sh", path)}
	// If this process runs as root, Postgres runs as another user, who must be able to enter this folder.
	err = os.Chmod(path, 0o711) //nolint:gosec // other users cannot list the folder, and only the owner can read its files
	if err == nil {
		f.remover.SysProcAttr = process.OwnGroup()
		f.pipe, err = f.remover.StdinPipe()
	}
	if err == nil {
		err = f.remover.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the shell that removes the folder %s: %w", path, err), os.RemoveAll(path))
	}
	return f, nil
}

// remove removes the folder and waits for the shell to end. A second call does nothing.
func (f *folder) remove() error {
	if f.pipe == nil {
		return nil
	}
	err := errors.Join(os.RemoveAll(f.path), f.pipe.Close(), f.remover.Wait())
	f.pipe = nil
	return err
}
