package pages

import (
	"fmt"
	"strings"
)

// The titles of the pages that have the same title in every API.
const (
	general           = "General"
	workspaceActivity = "Activity"
	authorizedApps    = "Account > Authorized Apps"
	accountActivity   = "Account > Activity"
)

// pagePath returns the path of the page with this title, below Config.Path: /developer/api-tokens for Developer > API Tokens.
func pagePath(title string) string {
	return "/" + strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(title), " > ", "/"), " ", "-")
}

// checkTitles returns an error if two pages would have the same path, or if one page would be below another one. The second page could
// have the path of a form or of a token of the first page.
func (a API) checkTitles() error {
	titles := []string{general, workspaceActivity, authorizedApps, accountActivity}
	for _, title := range []string{a.WorkspaceTokens, a.PersonalKeys, a.Apps} {
		if title == "" {
			continue
		}
		path := pagePath(title)
		if strings.HasPrefix(path+"/", staticPath) {
			return fmt.Errorf("the title %q is not valid: the path static is for the console's own files", title)
		}
		for _, other := range titles {
			otherPath := pagePath(other)
			switch {
			case path == otherPath:
				return fmt.Errorf("the pages %q and %q would have the same path: choose another title", other, title)
			case strings.HasPrefix(path, otherPath+"/"):
				return fmt.Errorf("the page %q would be below the page %q: choose another title", title, other)
			case strings.HasPrefix(otherPath, path+"/"):
				return fmt.Errorf("the page %q would be below the page %q: choose another title", other, title)
			}
		}
		titles = append(titles, title)
	}
	return nil
}
