package main

type demoCommand struct {
	Once bool `help:"Run a tour of requests, print what was expected and seen, and end; exit 1 if they differ."`
}

func (c *demoCommand) Run(s *session) error { return nil }
