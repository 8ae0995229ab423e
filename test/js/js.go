// Package js locates the JavaScript tools of the tests: Node.js, and the packages of package-lock.json.
package js

import (
	"errors"
	"os/exec"

	"github.com/keywicket/keywicket/internal/modulefile"
)

// Node returns the path of Node.js. If .tools/node exists, Node uses it. Otherwise Node uses the Node.js on PATH. make
// fetches .tools/node if PATH has no sufficiently recent Node.js.
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
