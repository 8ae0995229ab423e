package main

import (
	"runtime"
	"runtime/debug"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
)

type versionCommand struct{}

func (versionCommand) Run(s *invocation.Invocation) error {
	v := struct {
		Version string `json:"version"`
		Go      string `json:"go"`
	}{version(), runtime.Version()}
	return invocation.PrintOne(s, v, [2]string{"keywicket", shownVersion()}, [2]string{"go", v.Go})
}

// shownVersion returns the version for people. It says how to get a version if the build recorded none.
func shownVersion() string {
	shown := version()
	if shown == "(devel)" || shown == "unknown" {
		shown += ": the build recorded no version; make build in a git checkout records it"
	}
	return shown
}

// version returns the version of the module that the Go toolchain writes into the binary: a tag, a commit, or (devel). Without
// build information it returns "unknown".
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
