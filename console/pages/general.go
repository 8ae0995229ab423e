package pages

// addGeneral adds the page of a workspace: its name, and the ids that clients send. Each member of the workspace may see it.
func (s *site) addGeneral() {
	s.page(s.addSection(general, false), "", func(v *visit) error { return v.render("general.html", nil) })
}
