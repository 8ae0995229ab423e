package demo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/keywicket/keywicket/demo/process"
)

// folder holds every file of a stack. It is removed even if this process is killed: a shell waits for the end of a pipe
// that only this process holds, and removes it then.
type folder struct {
	path   string
	pipe   io.Closer
	keeper *exec.Cmd
}

// keep waits for its standard input to end, and removes its argument. The servers die with their parent, but may be
// writing for another moment. It is not for the terminal's signals, nor for a shutdown's.
const keep = `trap '' HUP INT TERM
cat > /dev/null
for try in 1 2 3 4 5; do
	rm -rf -- "$1" && exit
	sleep 1
done`

func newFolder() (*folder, error) {
	path, err := os.MkdirTemp("", "keywicket-demo-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	f := &folder{path: path, keeper: exec.Command("sh", "-c", keep, "sh", path)}
	// Root's Postgres runs as another user, who has to pass through.
	err = os.Chmod(path, 0o711) //nolint:gosec // nothing in it can be listed, and what is in it is its owner's alone
	if err == nil {
		f.keeper.SysProcAttr = process.Apart()
		f.pipe, err = f.keeper.StdinPipe()
	}
	if err == nil {
		err = f.keeper.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keep the folder %s: %w", path, err), os.RemoveAll(path))
	}
	return f, nil
}

// remove removes the folder and waits for its keeper, once.
func (f *folder) remove() error {
	if f.pipe == nil {
		return nil
	}
	err := errors.Join(os.RemoveAll(f.path), f.pipe.Close(), f.keeper.Wait())
	f.pipe = nil
	return err
}
