package main

import (
	"runtime"
	"runtime/debug"
)

type versionCommand struct{}

func (versionCommand) Run(s *invocation) error {
	v := struct {
		Version string `json:"version"`
		Go      string `json:"go"`
	}{version(), runtime.Version()}
	return printOne(s, v, [2]string{"keywicket", v.Version}, [2]string{"go", v.Go})
}

// version is that of the module, as the Go toolchain stamps it: a tag, a commit, or (devel).
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
