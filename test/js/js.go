// Package js locates the JavaScript tools of the tests: Node.js, and the packages of package-lock.json.
package js

import (
	"errors"
	"os/exec"

	"github.com/keywicket/keywicket/internal/modulefile"
)

// Node returns the path of Node.js. The Node.js in .tools/node has priority over the Node.js on PATH. If PATH has no Node.js of
// a supported version, `make` fetches .tools/node.
func Node() (string, error) {
	if path, ok := modulefile.Find(".tools/node/bin/node"); ok {
		return path, nil
	}
	if path, err := exec.LookPath("node"); err == nil {
		return path, nil
	}
	return "", errors.New(`no Node.js: run "make .tools/node", or install Node.js 20 or later with npm`)
}

// File returns the path of a file of an npm package, such as axe-core/axe.min.js.
func File(name string) (string, error) {
	if path, ok := modulefile.Find("test/js/node_modules/" + name); ok {
		return path, nil
	}
	return "", errors.New("no " + name + `: run "make test/js/node_modules"`)
}
